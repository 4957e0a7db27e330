/*
 * A guest of a few hundred bytes: into long mode, 64 MiB mapped one to one and nothing else, then each vCPU jumps to its
 * own program at 0x200000 + vCPU * 0x10000. No interrupts, no devices. A multiboot image (a.out form, so that a flat
 * 64-bit binary will do), linked at 1 MiB.
 */
	.code32
	.globl _start
_start:	jmp	start
	.balign 4
header:	.long	0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
	.long	header, _start, 0, 0, start

	.balign 8
gdt:	.quad	0, 0x00af9a000000ffff, 0x00cf92000000ffff, 0x00cf9a000000ffff
gdtr:	.word	gdtr - gdt - 1
	.long	gdt

start:	cli
	cld
	movl	$0x10000, %edi		/* page tables: 0x10000 .. 0x12fff */
	xorl	%eax, %eax
	movl	$0xc00, %ecx
	rep stosl
	movl	$0x11003, 0x10000
	movl	$0x12003, 0x11000
	movl	$0x12000, %edi
	movl	$0x83, %eax		/* present, writable, 2 MiB */
	movl	$32, %ecx
1:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x200000, %eax
	loop	1b
	movl	$second, %esi
	movl	$0x8000, %edi
	movl	$(second_end - second), %ecx
	rep movsb
	movl	$0x1ff, 0xfee000f0	/* local APIC on */
	movl	$0xc4500, 0xfee00300	/* INIT to all others */
	movl	$200000, %ecx
1:	pause
	loop	1b
	movl	$0xc4608, 0xfee00300	/* SIPI: start at 0x8000 */
	xorl	%ebx, %ebx

long_mode:				/* ebx: vCPU number */
	lgdt	gdtr
	movl	%cr4, %eax
	orl	$0x20, %eax		/* PAE */
	movl	%eax, %cr4
	movl	$0x10000, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000001, %eax	/* PG, PE */
	movl	%eax, %cr0
	ljmp	$0x08, $1f
	.code64
1:	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	leal	1(%rbx), %eax		/* gs_base: 0x1000 * (vCPU + 1) */
	shll	$12, %eax
	xorl	%edx, %edx
	movl	$0xc0000101, %ecx
	wrmsr
	movl	%ebx, %eax
	shll	$16, %eax
	leaq	0x300000(%rax), %rsp
	addq	$0x200000, %rax
	jmp	*%rax

	.code16
second:	lgdtl	%cs:(second_gdtr - second)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x18, $second32
second_gdtr:
	.word	gdtr - gdt - 1
	.long	gdt
second_end:
	.code32
second32:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$1, %ebx
	jmp	long_mode
