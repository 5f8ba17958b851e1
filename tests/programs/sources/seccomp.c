/* A process that has forbidden itself some calls: one gives an error, another
 * kills; a second filter lies on top of the first in one thread alone. */
#include "stage.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static volatile int asked, answered;

static void forbid(int call, unsigned action)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { 4, program };
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        fail("no filter");
}

static void must_give(int call, int error, const char *problem)
{
    errno = 0;
    if (syscall(call, 0, 0, 0) != -1 || errno != error)
        fail(problem);
}

static void *stricter(void *unused)
{
    (void)unused;
    forbid(SYS_swapon, SECCOMP_RET_ERRNO | 78);
    for (;;) {
        while (answered == asked)
            usleep(1000);
        must_give(SYS_swapon, 78, "the thread's filter is gone");
        must_give(SYS_acct, 77, "the first filter is gone in the thread");
        answered++;
    }
    return NULL;
}

int main(void)
{
    pthread_t thread;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("no no_new_privs");
    forbid(SYS_acct, SECCOMP_RET_ERRNO | 77);
    forbid(SYS_reboot, SECCOMP_RET_KILL_PROCESS);
    if (pthread_create(&thread, NULL, stricter, NULL))
        fail("no thread");
    do {
        must_give(SYS_acct, 77, "the first filter is gone");
        asked++;
        for (int tries = 0; answered != asked; tries++) {
            if (tries > 10000)
                fail("the thread does not answer");
            usleep(1000);
        }
    } while (stage_next());
    return 0;
}
