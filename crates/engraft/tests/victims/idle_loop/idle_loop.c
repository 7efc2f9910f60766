// A thread in an event loop to which nothing happens: it wakes once a second, for its timers. "turn" is answered with
// what the code of the turn says that ends next.
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static long turns;
static int last;

__attribute__((noipa)) static int turn(int events)
{
	struct epoll_event event;
	epoll_wait(events, &event, 1, 1000);
	return 1;
}

static void *loop(void *events)
{
	for (;;) {
		int result = turn(*(int *)events);
		pthread_mutex_lock(&lock);
		turns++;
		last = result;
		pthread_cond_broadcast(&ended);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(void)
{
	char line[100];
	int events = epoll_create1(0);
	pthread_t thread;
	if (events < 0 || pthread_create(&thread, NULL, loop, &events) != 0)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		pthread_mutex_lock(&lock);
		for (long before = turns; turns == before;)
			pthread_cond_wait(&ended, &lock);
		printf("%d\n", last);
		pthread_mutex_unlock(&lock);
	}
	return 0;
}
