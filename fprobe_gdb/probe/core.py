"""The kernel's fprobe rules as a state machine: hits in, handler calls out. No I/O, no clock, no target.

It follows kernel/trace/fprobe.c and kernel/trace/rethook.c of Linux 6.3 to 6.13 ("version B"). A dispatch feeds it
:class:`~.hit.Hit` objects in the order in which they happen, and plants what :meth:`ProbeCore.take_site_changes` and
:meth:`ProbeCore.take_return_changes` ask for.

Rule 1: a hit is counted for each enabled fprobe at its site: in ``hits``, in ``nmissed`` or in ``lost``, never in two.
Rule 2: a return belongs to the nodes of the same task, frame and return address, and to no others.
Rule 3: a handler that raises leaves the core consistent: its locks are given back and its node is free.

Where this must differ from the kernel, ``DIFFERS`` stands at the code and README.md lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fprobe_gdb.errors import InvalidProbe, ProbeBusy
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.filters import match_filter, resolve_ips, resolve_syms
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION, FPROBE_FL_DISABLED, Fprobe
from fprobe_gdb.probe.hit import Hit
from fprobe_gdb.probe.records import FtraceRecords
from fprobe_gdb.probe.recursion import RecursionGuard
from fprobe_gdb.probe.refcounts import RefCounts
from fprobe_gdb.probe.rethook import Rethook, RethookNode, ShadowStacks

__all__ = ["ProbeCore"]


# What registration makes of an fprobe: struct ftrace_ops and its filter hash.
@dataclass(slots=True, eq=False)
class _Ops:
    fprobe: Fprobe
    ips: frozenset[int]
    # Its pool; None without exit handler.
    rethook: Rethook | None
    # Which handler registration picked; FPROBE_FL_KPROBE_SHARED is not read again.
    shared_with_kprobes: bool
    # grow() may add to its locations; a default pool follows their number.
    growing: bool = False
    # Its locations are counted in ProbeCore._sites. Remembered, since users may write ``fprobe.flags`` themselves.
    sites_wanted: bool = False


class ProbeCore:
    """All registered fprobes of one guest.

    :param records: the guest's ftrace records.
    :param possible_cpus: ``num_possible_cpus()`` of the guest.
    :param admit: called with the locations of a registration that is about to succeed, and all that are planted
        already; raises to refuse it.
    :param on_missed: called for each hit that a handler does not see.
    """

    def __init__(
        self,
        records: FtraceRecords,
        possible_cpus: int,
        *,
        admit: Callable[[Collection[int], Collection[int]], None] | None = None,
        on_missed: Callable[[Fprobe, int, Hit, MissReason], None] | None = None,
    ) -> None:
        self.records = records
        self.possible_cpus = possible_cpus
        self.on_missed = on_missed
        self._admit = admit
        # Newest first, as add_ftrace_ops() pushes at the head.
        self._ops: list[_Ops] = []
        self._at_site: dict[int, tuple[_Ops, ...]] = {}
        # Fprobes that were registered once: fprobe_is_registered() stays true in this version.
        self._ever: dict[int, Fprobe] = {}
        #: Counts changes of what is probed.
        self.site_changes = 0
        self._sites = RefCounts()
        #: Whether it is empty tells that nothing has changed since :meth:`take_site_changes`; to be looked at only.
        self.sites_touched: Collection[int] = self._sites.touched
        self._returns = RefCounts()
        self._stacks = ShadowStacks()
        self._in_flight = self._stacks.by_task
        self._guard, self._list_guard = RecursionGuard(), RecursionGuard()
        self._taken = self._guard.taken
        # Tasks inside a handler of a kprobe-shared fprobe: kprobe_busy_begin().
        self._kprobe_busy: set[int] = set()

    # Section: registration

    def register_fprobe(self, fprobe: Fprobe | None, filter: str | None, notfilter: str | None = None) -> None:
        """``register_fprobe()``: probe the functions that ``filter`` matches and ``notfilter`` does not.

        :raise InvalidProbe: no fprobe or filter; filter or notfilter matches nothing; a pool of no nodes (-EINVAL).
        :raise ProbeBusy: registered already (-EBUSY).
        """
        if fprobe is None or filter is None:
            raise InvalidProbe("register_fprobe() needs an fprobe and a filter")
        self._fprobe_init(fprobe)
        any_function = bool(fprobe.flags & FPROBE_FL_ANY_FUNCTION)
        ips = match_filter(self.records, filter, any_function=any_function)
        excluded = match_filter(self.records, notfilter, what="notfilter") if notfilter is not None else set()
        # The kernel sizes the pool by the filter alone, before notfilter is taken off.
        self._register(fprobe, ips - excluded, len(ips))

    def register_fprobe_ips(self, fprobe: Fprobe | None, addrs: Sequence[int] | None, num: int | None = None) -> None:
        """``register_fprobe_ips()``: probe functions by address.

        :param num: how many of ``addrs`` to take; all by default.
        :raise InvalidProbe: nothing given, or an address that is no ftrace location (-EINVAL).
        :raise ProbeBusy: registered already (-EBUSY).
        """
        count = len(addrs or ()) if num is None else num
        if fprobe is None or not addrs or count <= 0:
            raise InvalidProbe("register_fprobe_ips() needs an fprobe and at least one address")
        _check_num(count, len(addrs))
        self._fprobe_init(fprobe)
        any_function = bool(fprobe.flags & FPROBE_FL_ANY_FUNCTION)
        ips = resolve_ips(self.records, list(addrs[:count]), any_function=any_function)
        self._register(fprobe, ips, count)

    def register_fprobe_syms(self, fprobe: Fprobe | None, syms: list[str] | None, num: int | None = None) -> None:
        """``register_fprobe_syms()``: probe functions by name. Sorts the caller's list in place, as the kernel does.

        :param num: how many of ``syms`` to take; all by default.
        :raise InvalidProbe: nothing given (-EINVAL).
        :raise ProbeNotFound: a name is unknown, untraceable or given twice (-ENOENT).
        :raise ProbeBusy: registered already (-EBUSY).
        """
        count = len(syms or ()) if num is None else num
        if fprobe is None or not syms or count <= 0:
            raise InvalidProbe("register_fprobe_syms() needs an fprobe and at least one symbol")
        _check_num(count, len(syms))
        self._refuse_registered(fprobe)
        syms[:count] = sorted(syms[:count])
        addrs = resolve_syms(self.records, syms[:count])
        self._fprobe_init(fprobe)
        self._register(fprobe, resolve_ips(self.records, addrs), count)

    def register_growing(self, fprobe: Fprobe, ips: Collection[int] = ()) -> None:
        """Probe locations that are there now, perhaps none, and more of them later: see :meth:`grow`.

        Ours; the kernel's fprobes of this version keep to the functions that were there when they were registered.

        :raise InvalidProbe: an address is no location; a negative ``nr_maxactive`` (-EINVAL).
        :raise ProbeBusy: registered already (-EBUSY).
        """
        self._fprobe_init(fprobe)
        any_function = bool(fprobe.flags & FPROBE_FL_ANY_FUNCTION)
        found = resolve_ips(self.records, list(ips), any_function=any_function)
        self._register(fprobe, found, len(found), growing=True)

    def grow(self, fprobe: Fprobe, ips: Collection[int]) -> None:
        """Probe more locations, of a module that is being loaded. Nothing for one that is not :meth:`is_growing`.

        A pool of the default size grows with them.

        :raise TooManySites: (by ``admit``) more than the dispatch can serve; nothing has changed then.
        """
        ops = self._find(fprobe)
        if ops is None or not ops.growing or not (more := frozenset(ips) - ops.ips):
            return
        if self._admit:
            self._admit(more, self._at_site.keys())
        self._set_ips(ops, ops.ips | more)

    def is_growing(self, fprobe: Fprobe) -> bool:
        """Whether an fprobe is registered, and by :meth:`register_growing`."""
        ops = self._find(fprobe)
        return ops is not None and ops.growing

    def module_gone(self, text: range) -> list[int]:
        """A stretch of code is about to be freed: nothing of it is probed any more, and calls that are in flight in it
        or return to it never end, so their nodes are free.

        :return: the locations that were probed there.
        """
        gone = [ip for ip in self._at_site if ip in text]
        for ops in self._ops:
            if any(ip in ops.ips for ip in gone):
                self._set_ips(ops, ops.ips.difference(gone))
        self._recycle(self._stacks.take_within(text))
        return gone

    def probes_any(self, belongs: Callable[[int], bool]) -> bool:
        """Whether any location that is probed answers to ``belongs``."""
        return any(map(belongs, self._at_site))

    def unregister_fprobe(self, fprobe: Fprobe | None) -> None:
        """``unregister_fprobe()``. Calls in flight go on; their exit handlers are not called.

        :raise InvalidProbe: never registered (-EINVAL).
        :raise ProbeBusy: unregistered already (-EBUSY, as in the kernel, which keeps ``ops.saved_func``).
        """
        if fprobe is None or id(fprobe) not in self._ever:
            raise InvalidProbe("this fprobe was never registered")
        ops = self._find(fprobe)
        if ops is None:
            raise ProbeBusy("this fprobe is unregistered already")
        if ops.rethook is not None:
            ops.rethook.stopped = True
        self._ops.remove(ops)
        self._index_sites(ops.ips)
        self._want_sites(ops, False)
        self._recycle(self._stacks.take_of(fprobe))

    def unregister_all(self) -> None:
        """Unregister every registered fprobe, newest first."""
        for ops in list(self._ops):
            self.unregister_fprobe(ops.fprobe)

    def fprobe_is_registered(self, fprobe: Fprobe | None) -> bool:
        """``fprobe_is_registered()``: also true after unregistration, in this version of the kernel."""
        return fprobe is not None and id(fprobe) in self._ever

    def is_active(self, fprobe: Fprobe) -> bool:
        """Whether an fprobe is registered now (ours; the kernel's answer is :meth:`fprobe_is_registered`)."""
        return self._find(fprobe) is not None

    def disable_fprobe(self, fprobe: Fprobe | None) -> None:
        """``disable_fprobe()``: handlers are not called and nothing is counted until it is enabled again."""
        if fprobe is not None:
            fprobe.flags |= FPROBE_FL_DISABLED
            if ops := self._find(fprobe):
                self._want_sites(ops, False)

    def enable_fprobe(self, fprobe: Fprobe | None) -> None:
        """``enable_fprobe()``. Calls that were entered while it was disabled have no exit."""
        if fprobe is not None:
            fprobe.flags &= ~FPROBE_FL_DISABLED
            if ops := self._find(fprobe):
                self._want_sites(ops, True)

    @property
    def fprobes(self) -> list[Fprobe]:
        """Registered fprobes, newest first."""
        return [ops.fprobe for ops in self._ops]

    def locations(self, fprobe: Fprobe) -> list[int]:
        """The locations of a registered fprobe, ascending; empty when it is not registered."""
        ops = self._find(fprobe)
        return sorted(ops.ips) if ops else []

    # Section: what a dispatch must plant

    def take_site_changes(self) -> tuple[set[int], set[int]]:
        """Locations that must be planted, and planted ones that are not needed now, since the last call."""
        return self._sites.take()

    def take_return_changes(self) -> tuple[set[int], set[int]]:
        """Return addresses that calls in flight newly need, and ones that none needs now, since the last call."""
        return self._returns.take()

    @property
    def sites_changed(self) -> bool:
        """Whether :meth:`take_site_changes` would give anything."""
        return self._sites.changed

    @property
    def calls_in_flight(self) -> int:
        """Nodes whose call has not returned."""
        return len(self._stacks)

    def depth(self, task: int, frame: int = 0, entry_ip: int = 0) -> int:
        """Distinct calls in flight of a task, but for the call of ``entry_ip`` at ``frame``."""
        return self._stacks.depth(task, frame, entry_ip)

    # Section: hits

    def entry(self, hit: Hit) -> bool:
        """A probed function is entered: run the entry handlers, newest fprobe first, and hook the return.

        Handlers' writes are in ``hit.regs`` afterwards. Exceptions of handlers come through.

        :return: whether the return of this call has to be told; see :meth:`is_exit`, which is newer.
        """
        task, in_flight = hit.task, self._in_flight
        # DIFFERS: a new frame above old nodes of the same stack: their calls were cut off and never return. The kernel
        # keeps them, warns at the next return, and calls no handlers there.
        if in_flight and task in in_flight and (below := self._stacks.take_below(task, hit.frame)):
            self._recycle(below)
        at_site = self._at_site.get(hit.ip)
        if not at_site:
            return False
        if len(at_site) == 1:
            self._callback(at_site[0], hit)
        else:
            self._list_func(at_site, hit)
        return bool(in_flight) and self._stacks.any_at_frame(task, hit.frame, hit.ret_ip)

    # arch_ftrace_ops_list_func().
    def _list_func(self, at_site: tuple[_Ops, ...], hit: Hit) -> None:
        # Several ftrace_ops on one function go through arch_ftrace_ops_list_func, which has a guard of its own.
        bit = self._list_guard.trylock(hit.task, hit.context)
        if bit is None:
            # The kernel forgets these hits; we count them beside nmissed, so that hits + nmissed + lost = calls.
            self.lose(hit, MissReason.LIST_RECURSION)
            return
        try:
            for ops in at_site:
                if ops in self._ops:
                    self._callback(ops, hit)
        finally:
            self._list_guard.unlock(hit.task, bit)

    def is_exit(self, task: int, frame: int, ret_addr: int) -> bool:
        """Whether a CPU at ``ret_addr`` with the stack pointer at ``frame + 8`` ends a call in flight."""
        return self._stacks.any_at_frame(task, frame, ret_addr)

    def exit(self, hit: Hit) -> None:
        """A call in flight returns: run the exit handlers, last hooked first. Without :meth:`is_exit`, nothing."""
        nodes = self._stacks.at_frame(hit.task, hit.frame, hit.ip)
        if not nodes:
            return
        # DIFFERS: calls below the returning frame were cut off, as above; the kernel would take them for this one.
        if len(self._stacks.by_task[hit.task]) > len(nodes) and (below := self._stacks.take_below(hit.task, hit.frame)):
            self._recycle(below)
        for node in nodes:
            node.exiting = True
        try:
            for node in nodes:
                self._exit_callback(node, hit)
        finally:
            self._stacks.unlink(hit.task, nodes)
            self._recycle(nodes)

    def lose(self, hit: Hit, reason: MissReason) -> None:
        """A probed function is entered, and the dispatch has to let it pass: count it for each fprobe there."""
        for ops in self._at_site.get(hit.ip, ()):
            self._lost(ops.fprobe, hit, reason)

    def drop_call(self, task: int, frame: int, ret_addr: int) -> None:
        """A call in flight has returned unseen: its nodes are free, its exit handlers do not run."""
        nodes = self._stacks.at_frame(task, frame, ret_addr)
        self._stacks.unlink(task, nodes)
        self._recycle(nodes)

    def task_dead(self, task: int) -> None:
        """A task runs for the last time: its calls never return, their nodes are free (``rethook_flush_task()``)."""
        self._recycle(self._stacks.take_task(task))

    # Section: private

    def _refuse_registered(self, fprobe: Fprobe) -> None:
        # DIFFERS: the kernel also answers -EBUSY, but merges the filters, zeroes nmissed and frees a live hash, and the
        # next unregister disables ftrace for good. We refuse without side effects.
        if self._find(fprobe):
            raise ProbeBusy("this fprobe is registered already; unregister it first")

    # fprobe_init(): behind the argument checks and before all others, so that a registration that fails later has
    # zeroed nmissed.
    def _fprobe_init(self, fprobe: Fprobe) -> None:
        self._refuse_registered(fprobe)
        fprobe.nmissed = fprobe.hits = fprobe.exits = fprobe.lost = fprobe.exits_missed = 0

    def _register(self, fprobe: Fprobe, ips: set[int], num: int, *, growing: bool = False) -> None:
        rethook = None
        if fprobe.exit_handler is not None:
            size = fprobe.nr_maxactive or num * self.possible_cpus * 2
            if size < 0 or (size == 0 and not growing):
                raise InvalidProbe(f"nr_maxactive is {fprobe.nr_maxactive}; it must be positive, or 0 for the default")
            if fprobe.entry_data_size < 0:
                raise InvalidProbe(f"entry_data_size is {fprobe.entry_data_size}; give a number of bytes, or 0")
            rethook = Rethook(fprobe, size, fprobe.entry_data_size)
        if self._admit:
            self._admit(ips, self._at_site.keys())
        ops = _Ops(fprobe, frozenset(ips), rethook, fprobe.shared_with_kprobes, growing)
        self._ops.insert(0, ops)
        self._ever[id(fprobe)] = fprobe
        self._index_sites(ops.ips)
        self._want_sites(ops, not fprobe.disabled)

    def _set_ips(self, ops: _Ops, ips: frozenset[int]) -> None:
        changed, wanted = ops.ips ^ ips, ops.sites_wanted
        self._want_sites(ops, False)
        ops.ips = ips
        self._want_sites(ops, wanted)
        self._index_sites(changed)
        if ops.growing and ops.rethook is not None and not ops.fprobe.nr_maxactive:
            ops.rethook.size = len(ips) * self.possible_cpus * 2

    def _want_sites(self, ops: _Ops, wanted: bool) -> None:
        if wanted and not ops.sites_wanted:
            self._sites.add(ops.ips)
        elif ops.sites_wanted and not wanted:
            self._sites.drop(ops.ips)
        ops.sites_wanted = wanted

    def _find(self, fprobe: Fprobe) -> _Ops | None:
        return next((ops for ops in self._ops if ops.fprobe is fprobe), None)

    def _index_sites(self, ips: Collection[int]) -> None:
        self.site_changes += 1
        for ip in ips:
            at_site = tuple(ops for ops in self._ops if ip in ops.ips)
            if at_site:
                self._at_site[ip] = at_site
            else:
                self._at_site.pop(ip, None)

    # fprobe_handler().
    def _callback(self, ops: _Ops, hit: Hit) -> None:
        fprobe = ops.fprobe
        if fprobe.flags & FPROBE_FL_DISABLED:
            return
        task, taken, bit = hit.task, self._taken, None
        if taken:
            bit = self._guard.trylock(task, hit.context)
            if bit is None:
                self._missed(fprobe, hit.ip, hit, MissReason.RECURSION)
                return
        else:
            # What trylock() does nearly always, without what a call costs.
            taken[task] = 1 << hit.context
        try:
            if ops.shared_with_kprobes:
                self._kprobe_handler(ops, hit)
            elif ops.rethook is None:
                # __fprobe_handler(), of which nothing else is left then.
                fprobe.hits += 1
                if fprobe.entry_handler:
                    fprobe.entry_handler(fprobe, hit.ip, hit.ret_ip, hit.regs, None)
            else:
                self._handle_entry(ops, hit)
        finally:
            if bit is None:
                # The same for unlock(): whoever took a bit meanwhile has given it back.
                del taken[task]
            else:
                self._guard.unlock(task, bit)

    # fprobe_kprobe_handler().
    def _kprobe_handler(self, ops: _Ops, hit: Hit) -> None:
        if hit.kprobe_running or hit.task in self._kprobe_busy:
            self._missed(ops.fprobe, hit.ip, hit, MissReason.KPROBE)
            return
        # DIFFERS: kprobe_busy_begin() also makes the guest's own kprobes miss; this dispatch does not write to guest
        # memory, so only our own kprobe-shared fprobes see it.
        self._kprobe_busy.add(hit.task)
        try:
            self._handle_entry(ops, hit)
        finally:
            self._kprobe_busy.discard(hit.task)

    # __fprobe_handler().
    def _handle_entry(self, ops: _Ops, hit: Hit) -> None:
        # DIFFERS: in a function that was reached by a tail call from a hooked one, the kernel's ret_ip is its own
        # trampoline; ours is the real return address, here and in [sp].
        fprobe, rethook = ops.fprobe, ops.rethook
        if rethook is None:
            fprobe.hits += 1
            if fprobe.entry_handler:
                fprobe.entry_handler(fprobe, hit.ip, hit.ret_ip, hit.regs, None)
            return
        node = rethook.try_get()
        if node is None:
            self._missed(fprobe, hit.ip, hit, MissReason.POOL)
            return
        node.entry_ip = hit.ip
        fprobe.hits += 1
        cancelled: object = True
        try:
            data = node.data if fprobe.entry_data_size else None
            cancelled = fprobe.entry_handler and fprobe.entry_handler(fprobe, hit.ip, hit.ret_ip, hit.regs, data)
        finally:
            # An entry handler may unregister its own fprobe; nothing is hooked then.
            if cancelled or rethook.stopped:
                rethook.recycle(node)
            else:
                self._hook(node, hit)

    # rethook_hook().
    def _hook(self, node: RethookNode, hit: Hit) -> None:
        node.ret_addr, node.frame, node.task = hit.ret_ip, hit.frame, hit.task
        self._stacks.push(node)
        self._returns.add_one(node.ret_addr)

    # fprobe_exit_handler().
    def _exit_callback(self, node: RethookNode, hit: Hit) -> None:
        fprobe = node.rethook.fprobe
        handler = fprobe.exit_handler
        if node.rethook.stopped or fprobe.flags & FPROBE_FL_DISABLED or handler is None:
            return
        bit = self._guard.trylock(hit.task, hit.context)
        if bit is None:
            fprobe.exits_missed += 1
            self._missed(fprobe, node.entry_ip, hit, MissReason.EXIT_RECURSION)
            return
        try:
            fprobe.exits += 1
            data = node.data if fprobe.entry_data_size else None
            handler(fprobe, node.entry_ip, hit.ret_ip, hit.regs, data)
        finally:
            self._guard.unlock(hit.task, bit)

    def _missed(self, fprobe: Fprobe, entry_ip: int, hit: Hit, reason: MissReason) -> None:
        fprobe.nmissed += 1
        if self.on_missed:
            self.on_missed(fprobe, entry_ip, hit, reason)

    def _lost(self, fprobe: Fprobe, hit: Hit, reason: MissReason) -> None:
        if not fprobe.disabled:
            fprobe.lost += hit.calls
            if self.on_missed:
                self.on_missed(fprobe, hit.ip, hit, reason)

    def _recycle(self, nodes: list[RethookNode]) -> None:
        for node in nodes:
            self._returns.drop_one(node.ret_addr)
            node.rethook.recycle(node)


# DIFFERS: the kernel cannot know how long the caller's array is, and reads on behind it.
def _check_num(num: int, given: int) -> None:
    if num > given:
        raise InvalidProbe(f"num is {num}, but only {given} were given")
