/* A thread holds a pattern in all wide registers while it spins: zmm0-31 and
 * k0-7 where compiled for AVX-512, ymm0-15 otherwise. */
#include "stage.h"
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512BW__
#define COUNT 32
#define WIDTH 64
#define LOAD(n) "vmovdqu64 " #n "*64(%[in]), %%zmm" #n "\n"
#define STORE(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[out])\n"
#define LOADK(n) "kmovq 2048+8*" #n "(%[in]), %%k" #n "\n"
#define STOREK(n) "kmovq %%k" #n ", 2048+8*" #n "(%[out])\n"
#else
#define COUNT 16
#define WIDTH 32
#define LOAD(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n"
#define LOADK(n)
#define STOREK(n)
#endif

#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SIXTEEN(X) EIGHT(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#ifdef __AVX512BW__
#define ALL(X) SIXTEEN(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) \
    X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#else
#define ALL SIXTEEN
#endif

struct file {
    unsigned char wide[COUNT][WIDTH];
#ifdef __AVX512BW__
    uint64_t k[8];
#endif
} __attribute__((aligned(64)));

static struct file before, after;
static volatile int flag, holding;

static void hold(void)
{
    __asm__ volatile(
        ALL(LOAD) EIGHT(LOADK)
        "movl $1, %[holding]\n"
        "1: pause\n"
        "cmpl $0, %[flag]\n"
        "je 1b\n"
        ALL(STORE) EIGHT(STOREK)
        : [holding] "+m"(holding)
        : [in] "r"(&before), [out] "r"(&after), [flag] "m"(flag)
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
          "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
          "xmm14", "xmm15"
#ifdef __AVX512BW__
          , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
          "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29",
          "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#endif
        );
}

static void *keep(void *unused)
{
    (void)unused;
    hold();
    return NULL;
}

int main(void)
{
    int more = 1;
    for (int round = 0; more; round++) {
        pthread_t thread;
        unsigned char *bytes = (unsigned char *)&before;
        for (size_t i = 0; i < sizeof before; i++)
            bytes[i] = (unsigned char)(i * 31 + round * 17 + (i >> 8));
        memset(&after, 0, sizeof after);
        flag = holding = 0;
        if (pthread_create(&thread, NULL, keep, NULL))
            fail("no thread");
        while (!holding)
            usleep(100);
        more = stage_next();
        flag = 1;
        pthread_join(thread, NULL);
        if (memcmp(&before, &after, sizeof before))
            fail("the registers have changed");
    }
    return 0;
}
