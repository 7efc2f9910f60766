// Threads that do nothing but sleep in the C library's poll, again and again.
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *sleep_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		poll(NULL, 0, 300);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 1;
	for (int i = 1; i < threads; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, sleep_for_ever, NULL) != 0)
			return 1;
	}
	puts("ready");
	fflush(stdout);
	sleep_for_ever(NULL);
}
