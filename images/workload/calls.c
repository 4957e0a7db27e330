// Subcommands of one task that does not wait: plain, nested and recursive calls.

#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGES = 4 };

// personality(0xffffffff) only asks; it cannot fail.
void run_calls(const long *arg)
{
	for (long i = 0; i < arg[0]; i++)
		check(personality(0xffffffff), "personality");
	printf("done calls=%ld\n", arg[0]);
}

// The i-th call, from 0, has arguments that follow from i: offset i * 4096, length 8192 + i, and mode 3 (punch a hole, keep
// the size: returns 0) for even i, 0x100 (no such mode: returns -EOPNOTSUPP) for odd i.
// vfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len) takes them in registers.
void run_args(const long *arg)
{
	int file = check(memfd_create("workload", 0), "memfd_create");

	for (long i = 0; i < arg[0]; i++) {
		int mode = i % 2 ? 0x100 : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
		int result = fallocate(file, mode, i * 4096, 8192 + i);
		if (i % 2 ? result != -1 || errno != EOPNOTSUPP : result != 0)
			unexpected("fallocate gave another result than 0 for mode 3 and EOPNOTSUPP for mode 0x100");
	}
	printf("done calls=%ld fd=%d\n", arg[0], file);
}

void run_read(const long *arg)
{
	char *buffer = calloc(1, arg[1]);
	int file = check(memfd_create("workload", 0), "memfd_create");

	if (!buffer)
		fail("calloc");
	check(ftruncate(file, arg[1]), "ftruncate");
	for (long i = 0; i < arg[0]; i++)
		if (check(pread(file, buffer, arg[1], 0), "pread") != arg[1])
			unexpected("pread gave fewer bytes than the file has");
	printf("done reads=%ld bytes=%ld fd=%d\n", arg[0], arg[0] * arg[1], file);
}

// One sendmmsg of four datagrams: the system call's function calls ___sys_sendmsg for each.
void run_nested(const long *arg)
{
	char byte = 'x';
	struct iovec part = { &byte, 1 };
	struct mmsghdr messages[MESSAGES];
	int ends[2];

	check(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), "socketpair");
	for (long i = 0; i < arg[0]; i++) {
		for (int j = 0; j < MESSAGES; j++)
			messages[j] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &part, .msg_iovlen = 1 } };
		if (check(sendmmsg(ends[0], messages, MESSAGES, 0), "sendmmsg") != MESSAGES)
			unexpected("sendmmsg sent fewer messages than it was given");
		for (int j = 0; j < MESSAGES; j++)
			check(recv(ends[1], &byte, 1, 0), "recv");
	}
	printf("done outer=%ld inner=%ld\n", arg[0], arg[0] * MESSAGES);
}

// Epoll instances in a chain: adding a chain of D to another instance makes the kernel look through it for a loop, by
// recursion (ep_loop_check_proc calls itself). The chain is made from its top, each link to an instance that is empty so
// far, which takes one call each; so D-1 calls go before the N times D of the deep ones.
void run_recursive(const long *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	int chain[8];

	for (int i = 0; i <= arg[0]; i++)
		chain[i] = check(epoll_create1(0), "epoll_create1");
	for (int i = 1; i < arg[0]; i++)
		check(epoll_ctl(chain[i], EPOLL_CTL_ADD, chain[i + 1], &event), "epoll_ctl (chain)");
	for (long i = 0; i < arg[1]; i++) {
		check(epoll_ctl(chain[0], EPOLL_CTL_ADD, chain[1], &event), "epoll_ctl (add)");
		check(epoll_ctl(chain[0], EPOLL_CTL_DEL, chain[1], NULL), "epoll_ctl (delete)");
	}
	printf("done depth=%ld times=%ld calls=%ld\n", arg[0], arg[1], arg[0] - 1 + arg[0] * arg[1]);
}
