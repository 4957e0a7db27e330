// Subcommands whose tasks sleep inside a call: in turn, across CPUs, and out of order.

#include "workload.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

long read_byte(int pipe_end)
{
	char byte;
	struct iovec part = { &byte, 1 };

	return readv(pipe_end, &part, 1);
}

void write_byte(int pipe_end)
{
	check(write(pipe_end, "x", 1), "write to a pipe");
}

static void must_read(int pipe_end)
{
	if (check(read_byte(pipe_end), "readv from a pipe") != 1)
		unexpected("a pipe ended early");
}

static void pin(pid_t task, int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	check(sched_setaffinity(task, sizeof(cpus), &cpus), "sched_setaffinity (needs two CPUs: -smp 2)");
}

// A thread that reads bytes from a pipe of its own.
struct reader {
	pthread_t thread;
	int pipe[2];
	long rounds;
	int first_cpu;		// where to begin, -1 for anywhere
	atomic_int task;	// its task id, once it runs
	atomic_long announced;	// reads that it is about to make: its next sleep is in this one
	atomic_long finished;	// reads that it is back from
	atomic_int cpu;		// where it was when it came back
};

static void *reader_main(void *arg)
{
	struct reader *self = arg;

	if (self->first_cpu >= 0)
		pin(0, self->first_cpu);
	self->task = syscall(SYS_gettid);
	for (long i = 0; i < self->rounds; i++) {
		self->announced++;
		must_read(self->pipe[0]);
		self->cpu = sched_getcpu();
		self->finished++;
	}
	return NULL;
}

static void start(struct reader *reader, long rounds)
{
	reader->rounds = rounds;
	check(pipe(reader->pipe), "pipe");
	if ((errno = pthread_create(&reader->thread, NULL, reader_main, reader)))
		fail("pthread_create");
	while (!reader->task)
		sched_yield();
}

static void join(struct reader *reader)
{
	if ((errno = pthread_join(reader->thread, NULL)))
		fail("pthread_join");
}

static void wait_reading(struct reader *reader, long round)
{
	while (reader->announced != round + 1)
		sched_yield();
	wait_asleep(getpid(), reader->task);
}

static void wake(struct reader *reader, long round)
{
	write_byte(reader->pipe[1]);
	while (reader->finished != round + 1)
		sched_yield();
}

void run_pipe(const long *arg)
{
	int there[2], back[2];
	pid_t child;

	check(pipe(there), "pipe");
	check(pipe(back), "pipe");
	child = clone3_process();
	if (!child) {
		for (long i = 0; i < arg[0]; i++)
			if (read_byte(there[0]) != 1 || write(back[1], "x", 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (long i = 0; i < arg[0]; i++) {
		write_byte(there[1]);
		must_read(back[0]);
	}
	if (reap(child))
		unexpected("the other process could not read or write");
	printf("done rounds=%ld reads=%ld\n", arg[0], 2 * arg[0]);
}

// The reader enters each read on one CPU, 0 at first, and comes back on the other.
void run_migrate(const long *arg)
{
	struct reader reader = { .first_cpu = 0 };
	long moved = 0;

	start(&reader, arg[0]);
	for (long i = 0; i < arg[0]; i++) {
		int to = (i + 1) % 2;

		wait_reading(&reader, i);
		pin(reader.task, to);
		wake(&reader, i);
		moved += reader.cpu == to;
	}
	join(&reader);
	if (moved != arg[0])
		unexpected("a thread did not move to the other CPU");
	printf("done moved=%ld\n", moved);
}

// A enters, B enters, A returns, B returns: in the order of entry, where one task's calls nest.
void run_interleave(const long *arg)
{
	struct reader first = { .first_cpu = -1 }, second = { .first_cpu = -1 };

	start(&first, arg[0]);
	start(&second, arg[0]);
	for (long i = 0; i < arg[0]; i++) {
		wait_reading(&first, i);
		wait_reading(&second, i);
		wake(&first, i);
		wake(&second, i);
	}
	join(&first);
	join(&second);
	printf("done rounds=%ld reads=%ld\n", arg[0], 2 * arg[0]);
}
