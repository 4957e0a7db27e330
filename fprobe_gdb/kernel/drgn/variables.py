"""The C types of well-known variables, of which BTF has few: until Linux 6.15 per-CPU ones only, or (5.10) none at all.

What drgn's own helpers for Linux use (drgn 0.3), and what people ask for by hand. A type that changed between Linux
5.10 and 6.12 under the same name is not here. A kernel that lacks the type, or whose symbol has less room than the type
needs, has no such variable for us.
"""

from __future__ import annotations

__all__ = ["VARIABLE_TYPES"]

_BY_TYPE = {
    "struct task_struct": "init_task",
    "struct mm_struct": "init_mm",
    "struct fs_struct": "init_fs",
    "struct cred": "init_cred",
    "struct nsproxy": "init_nsproxy",
    "struct pid_namespace": "init_pid_ns",
    "struct uts_namespace": "init_uts_ns",
    "struct ipc_namespace": "init_ipc_ns",
    "struct user_namespace": "init_user_ns",
    "struct time_namespace": "init_time_ns",
    "struct cgroup_namespace": "init_cgroup_ns",
    "struct net": "init_net",
    "struct task_group": "root_task_group",
    "struct cgroup_root": "cgrp_dfl_root",
    "struct list_head": (
        "modules net_namespace_list slab_caches super_blocks cgroup_roots pci_root_buses vmap_area_list"
    ),
    "struct rb_root": "vmap_area_root",
    "struct idr": "prog_idr map_idr btf_idr link_idr",
    "struct xarray": "irq_desc_tree",
    "struct maple_tree": "sparse_irqs",
    "struct resource": "ioport_resource iomem_resource",
    "struct memblock": "memblock",
    "struct mod_tree_root": "mod_tree",
    "struct neigh_table": "arp_tbl nd_tbl",
    "struct class": "block_class",
    "struct bus_type": "pci_bus_type memory_subsys cpu_subsys platform_bus_type",
    "struct file_operations": "ns_file_operations",
    "struct percpu_counter": "vm_committed_as",
    "struct pglist_data": "contig_page_data",
    "struct cpumask": "__cpu_online_mask __cpu_possible_mask __cpu_present_mask __cpu_active_mask",
    "struct super_block *": "blockdev_superblock",
    "struct printk_ringbuffer *": "prb",
    "struct kset *": "class_kset bus_kset slab_kset devices_kset",
    "struct kobj_map *": "cdev_map",
    "struct kernfs_node *": "sysfs_root_kn",
    "struct kmem_cache *": "task_struct_cachep names_cachep filp_cachep",
    "struct vmap_node *": "vmap_nodes",
    "struct mem_section **": "mem_section",
    "struct pglist_data *[]": "node_data",
    "struct swap_info_struct *[]": "swap_info",
    "struct address_space *[]": "swapper_spaces",
    "struct char_device_struct *[255]": "chrdevs",
    "struct blk_major_name *[255]": "major_names",
    "struct hlist_head [128]": "uidhash_table",
    "struct hstate []": "hstates",
    "struct softirq_action []": "softirq_vec",
    "struct taint_flag []": "taint_flags",
    "gate_desc [256]": "idt_table",
    "nodemask_t []": "node_states",
    "atomic_long_t []": "vm_zone_stat vm_node_stat vm_numa_event",
    "atomic_long_t": "_totalram_pages nr_swap_pages",
    "atomic_t": "panic_cpu",
    "enum system_states": "system_state",
    "char *": "saved_command_line",
    "const char *[9]": "task_state_array",
    "const char []": "linux_banner linux_proc_banner",
    "unsigned long []": "__per_cpu_offset",
    "unsigned long [3]": "avenrun",
    "unsigned long": (
        "page_offset_base vmalloc_base vmemmap_base phys_base jiffies max_pfn min_low_pfn max_low_pfn tainted_mask "
        "sysctl_overcommit_kbytes"
    ),
    "long": "total_swap_pages",
    "unsigned int": "nr_cpu_ids nr_node_ids nr_swapfiles vmap_zone_size nr_vmap_nodes",
    "int": "nr_threads hugetlb_max_hstate ipc_mni_shift sysctl_overcommit_ratio sysctl_overcommit_memory",
    "u64": "jiffies_64",
}

# Per-CPU variables, for kernels whose BTF has no variables.
_BY_TYPE |= {
    "struct rq": "runqueues",
    "struct task_struct *": "current_task",
    "struct hrtimer_cpu_base": "hrtimer_bases",
    "struct vm_event_state": "vm_event_states",
    "struct kernel_stat": "kstat",
    "struct tick_sched": "tick_cpu_sched",
    "struct cpuinfo_x86": "cpu_info",
}

#: C type by name; ``[]`` is an array whose end only the kernel's code knows.
VARIABLE_TYPES = {name: type_ for type_, names in _BY_TYPE.items() for name in names.split()}
