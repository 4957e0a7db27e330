// Subcommands about tasks: several at once, born, ended, killed.

#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t clone3_process(void)
{
	struct clone_args how = { .exit_signal = SIGCHLD };

	return check(syscall(SYS_clone3, &how, sizeof(how)), "clone3");
}

int reap(pid_t child)
{
	siginfo_t info;

	check(waitid(P_PID, child, &info, WEXITED), "waitid");
	return info.si_code == CLD_EXITED ? info.si_status : 256 + info.si_status;
}

void wait_asleep(pid_t process, pid_t task)
{
	char path[64], text[512], *state;
	int file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", process, task);
	file = check(open(path, O_RDONLY | O_CLOEXEC), path);
	for (;;) {
		text[check(pread(file, text, sizeof(text) - 1, 0), "pread of a task's state")] = 0;
		// The name in brackets may hold anything, brackets too.
		state = strrchr(text, ')');
		if (!state || !state[1])
			unexpected("no state in /proc/PID/task/TID/stat");
		if (state[2] == 'S')
			break;
		if (state[2] == 'Z' || state[2] == 'X')
			unexpected("a task ended that should have waited");
		sched_yield();
	}
	close(file);
}

static void *thread_calls(void *arg)
{
	for (long i = 0; i < *(const long *)arg; i++)
		check(personality(0xffffffff), "personality");
	return NULL;
}

void run_threads(const long *arg)
{
	pthread_t threads[1000];

	for (long i = 0; i < arg[0]; i++)
		if ((errno = pthread_create(&threads[i], NULL, thread_calls, (void *)&arg[1])))
			fail("pthread_create");
	for (long i = 0; i < arg[0]; i++)
		if ((errno = pthread_join(threads[i], NULL)))
			fail("pthread_join");
	printf("done threads=%ld calls=%ld\n", arg[0], arg[0] * arg[1]);
}

void run_fork(const long *arg)
{
	for (long i = 0; i < arg[0]; i++) {
		pid_t child = clone3_process();
		if (!child)
			_exit(7);
		if (reap(child) != 7)
			unexpected("a child did not end with its status");
	}
	printf("done forks=%ld\n", arg[0]);
}

// exit(2), not exit_group(2) as every ordinary program does.
void run_exit(const long *arg)
{
	for (long i = 0; i < arg[0]; i++) {
		pid_t child = clone3_process();
		if (!child)
			syscall(SYS_exit, 7);
		if (reap(child) != 7)
			unexpected("a child did not end with its status");
	}
	printf("done exits=%ld\n", arg[0]);
}

// Under strict seccomp any call but read, write, exit and sigreturn kills the task where it is checked.
void run_exit_in(const long *arg)
{
	for (long i = 0; i < arg[0]; i++) {
		pid_t child = clone3_process();
		if (!child) {
			if (syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0)
				syscall(SYS_personality, 0xffffffff);
			syscall(SYS_exit, 1);
		}
		if (reap(child) != 256 + SIGKILL)
			unexpected("strict seccomp did not kill the child (a kernel without CONFIG_SECCOMP?)");
	}
	printf("done died=%ld\n", arg[0]);
}

void run_killed(const long *arg)
{
	atomic_long *announced = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int ends[2];

	if (announced == MAP_FAILED)
		fail("mmap");
	check(pipe(ends), "pipe");
	for (long i = 0; i < arg[0]; i++) {
		pid_t child = clone3_process();
		if (!child) {
			*announced = i + 1;
			read_byte(ends[0]);
			_exit(1);
		}
		while (*announced != i + 1)
			sched_yield();
		wait_asleep(child, child);
		check(kill(child, SIGKILL), "kill");
		if (reap(child) != 256 + SIGKILL)
			unexpected("the child was not killed");
	}
	printf("done killed=%ld\n", arg[0]);
}
