/* Threads that compute and sleep, an interval timer, memory with a pattern. */
#include "stage.h"
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>

#define THREADS 3
#define BYTES (4 << 20)

static volatile uint64_t steps[THREADS], values[THREADS];
static volatile sig_atomic_t alarms;

static uint64_t advance(uint64_t x)
{
    return x * 6364136223846793005u + 1442695040888963407u;
}

static void *compute(void *argument)
{
    long me = (long)argument;
    for (;;) {
        for (int i = 0; i < 1000; i++) {
            values[me] = advance(values[me]);
            steps[me]++;
        }
        usleep(500);
    }
    return NULL;
}

static void on_alarm(int signal)
{
    (void)signal;
    alarms++;
}

static void check_threads(void)
{
    static uint64_t seen[THREADS];
    for (int i = 0; i < THREADS; i++) {
        for (int tries = 0; steps[i] == seen[i]; tries++) {
            if (tries > 10000)
                fail("a thread stands still");
            usleep(1000);
        }
        seen[i] = steps[i];
    }
}

static void check_alarms(void)
{
    int before = alarms;
    for (int tries = 0; alarms == before; tries++) {
        if (tries > 10000)
            fail("no alarm comes");
        usleep(1000);
    }
}

static void check_memory(const unsigned char *memory, int from)
{
    for (int i = 0; i < BYTES; i++)
        if (memory[i] != (unsigned char)(i * 7 + from))
            fail("memory has changed");
}

int main(void)
{
    unsigned char *memory = malloc(BYTES);
    int from = 0;
    pthread_t thread;
    struct itimerval every = { { 0, 20000 }, { 0, 20000 } };
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, compute, (void *)i))
            fail("no thread");
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < BYTES; i++)
        memory[i] = (unsigned char)(i * 7 + from);
    while (stage_next()) {
        check_memory(memory, from);
        from++;
        for (int i = 0; i < BYTES; i++)
            memory[i] = (unsigned char)(i * 7 + from);
        check_threads();
        check_alarms();
    }
    return 0;
}
