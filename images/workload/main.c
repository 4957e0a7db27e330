// workload: makes a known number of known kernel calls, so that a tracer's counts can be checked exactly.
//
// The calls are chosen so that nothing else in a small guest makes them. N, T ... are the numbers of the command line.
// All functions below exist and are traceable in Debian's 6.1 and 6.12 kernels; the counts were seen there with the
// guest's own function tracer (tests/integration/test_images.py does it again). images/workload_counts.py is this table
// as data. "exits" is given where it differs from the entries.
//
//   subcommand      kernel function             entries          exits
//   calls N         __x64_sys_personality       N
//   args N          vfs_fallocate               N                returns 0, -EOPNOTSUPP (-95), 0, ...: see run_args
//   read N SIZE     __x64_sys_pread64           N                each returns SIZE
//   nested N        __sys_sendmmsg              N
//                   ___sys_sendmsg              4N               each inside __sys_sendmmsg
//                   unix_dgram_sendmsg          4N               each inside ___sys_sendmsg
//   recursive D N   ep_loop_check_proc          D-1 + N*D        N times D deep, D at most 4
//   pipe N          vfs_readv                   2N               two processes in turn, reads block
//   threads T N     __x64_sys_personality       T*N
//                   __x64_sys_exit              T                0 (never returns)
//   fork N          __x64_sys_clone3            N                returns in the parent only
//                   kernel_waitid               N
//   exit N          __x64_sys_exit              N                0 (never returns)
//   exit_in N       __secure_computing          N                0 (the task dies inside)
//   killed N        vfs_readv                   N                each returns -ERESTARTSYS (-512), then the task dies
//   migrate N       vfs_readv                   N                entered on one CPU, returns on the other
//   interleave N    vfs_readv                   2N               first in, first out
//
// ksys_pread64 and its like are no use: gcc puts them into the system call's function and keeps a copy that nobody calls.
// A task that is killed while it sleeps in a read does return from it, with -ERESTARTSYS: it dies on its way to user
// space. exit_in shows a call that really never returns: strict seccomp ends the task inside the function.
//
// The last line of output is "done KEY=VALUE ..."; exit status 1 is a call that failed, 2 a wrong command line.

#include "workload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	subcommand *run;
	struct {
		const char *name;
		long min, max;
	} args[2];
} commands[] = {
	{ "calls", run_calls, { { "N", 0, 100000000 } } },
	{ "args", run_args, { { "N", 0, 100000000 } } },
	{ "read", run_read, { { "N", 0, 100000000 }, { "SIZE", 1, 1 << 20 } } },
	{ "nested", run_nested, { { "N", 0, 100000000 } } },
	// EP_MAX_NESTS of fs/eventpoll.c is 4.
	{ "recursive", run_recursive, { { "DEPTH", 1, 4 }, { "N", 0, 100000000 } } },
	{ "pipe", run_pipe, { { "N", 0, 100000000 } } },
	{ "threads", run_threads, { { "T", 1, 1000 }, { "N", 0, 100000000 } } },
	{ "fork", run_fork, { { "N", 0, 1000000 } } },
	{ "exit", run_exit, { { "N", 0, 1000000 } } },
	{ "exit_in", run_exit_in, { { "N", 0, 1000000 } } },
	{ "killed", run_killed, { { "N", 0, 1000000 } } },
	{ "migrate", run_migrate, { { "N", 0, 1000000 } } },
	{ "interleave", run_interleave, { { "N", 0, 1000000 } } },
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void fail(const char *what)
{
	fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
	exit(1);
}

void unexpected(const char *what)
{
	fprintf(stderr, "workload: %s\n", what);
	exit(1);
}

long check(long value, const char *what)
{
	if (value == -1)
		fail(what);
	return value;
}

static int usage(void)
{
	fprintf(stderr, "usage, one of:\n");
	for (size_t i = 0; i < COUNT(commands); i++) {
		fprintf(stderr, "  workload %s", commands[i].name);
		for (size_t j = 0; j < COUNT(commands[i].args) && commands[i].args[j].name; j++)
			fprintf(stderr, " %s(%ld..%ld)", commands[i].args[j].name, commands[i].args[j].min,
				commands[i].args[j].max);
		fprintf(stderr, "\n");
	}
	return 2;
}

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < COUNT(commands); i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		long args[COUNT(commands[i].args)] = { 0 };
		int wanted = 0;
		for (; wanted < (int)COUNT(args) && commands[i].args[wanted].name; wanted++) {
			const char *text = argc > wanted + 2 ? argv[wanted + 2] : "";
			char *end;
			errno = 0;
			args[wanted] = strtol(text, &end, 10);
			if (errno || end == text || *end || args[wanted] < commands[i].args[wanted].min ||
			    args[wanted] > commands[i].args[wanted].max)
				return usage();
		}
		if (argc != wanted + 2)
			return usage();
		commands[i].run(args);
		return fflush(stdout) ? 1 : 0;
	}
	return usage();
}
