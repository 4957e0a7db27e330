// Shared by the subcommands: what they are given, what they report, how they fail.
#ifndef WORKLOAD_H
#define WORKLOAD_H

#define _GNU_SOURCE 1
#include <sys/types.h>

// The numbers of the command line, as many as the subcommand asked for.
typedef void subcommand(const long *arg);

// calls.c: one task, no waiting
subcommand run_calls, run_args, run_read, run_nested, run_recursive;
// tasks.c: tasks that are born and die
subcommand run_threads, run_fork, run_exit, run_exit_in, run_killed;
// blocking.c: tasks that sleep inside a call
subcommand run_pipe, run_migrate, run_interleave;

// Print "workload: WHAT: why (errno)" and end with status 1.
void fail(const char *what) __attribute__((noreturn));

// Print "workload: WHAT" and end with status 1: the kernel did what it should not.
void unexpected(const char *what) __attribute__((noreturn));

// VALUE, unless it is -1: then fail(WHAT).
long check(long value, const char *what);

// Wait, without blocking calls, until a task sleeps (state S in /proc). It must have announced that its next sleep is
// the one that we wait for.
void wait_asleep(pid_t process, pid_t task);

// A child process by clone3(2), since nothing else in the guest calls that. Returns 0 in the child, which may only make
// system calls.
pid_t clone3_process(void);

// Wait for a child by waitid(2), which nothing else in the guest calls, and give back its exit status, or 256 + signal.
int reap(pid_t child);

// One byte from a pipe by readv(2): shells read their pipes by read(2), so the count stays ours.
long read_byte(int pipe_end);

void write_byte(int pipe_end);

#endif
