/* Two thousand areas of memory, each with other contents. */
#include "stage.h"
#include <stdint.h>
#include <sys/mman.h>

#define AREAS 2000
#define PAGE 4096

int main(void)
{
    /* Every second page may be written to, the others not at all: neighbours
     * never merge. */
    unsigned char *base = mmap(NULL, (size_t)AREAS * PAGE, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        fail("no memory");
    for (int i = 0; i < AREAS; i += 2) {
        uint32_t *page = (uint32_t *)(base + (size_t)i * PAGE);
        if (mprotect(page, PAGE, PROT_READ | PROT_WRITE))
            fail("no protection");
        page[0] = i;
    }
    for (uint32_t round = 0; stage_next(); round++) {
        for (int i = 0; i < AREAS; i += 2) {
            uint32_t *page = (uint32_t *)(base + (size_t)i * PAGE);
            if (page[0] != i + round)
                fail("a page has changed");
            page[0] = i + round + 1;
        }
    }
    return 0;
}
