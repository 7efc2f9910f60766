// A process that lies to whoever looks at it, by lot from a seed:  liar SEED [LIES [FILE]]
// LIES is a sum of the numbers in `lies`, below; by default it is drawn, too. FILE is what it would like root to write.
#define _GNU_SOURCE
#include "lies.h"
#include "certain.h"

int answer(int question);

static const struct {
    unsigned long bit;
    void (*tell)(void);
} lies[] = {
    {1, fake_agent},      {2, fake_link_maps},   {4, fake_headers},  {8, fake_dynamic},
    {16, swap_descriptors}, {32, hold_lock},     {64, churn_threads}, {128, odd_names},
    {256, scribble_agent}, {512, many_mappings}, {1024, end_at_random}, {2048, many_threads},
    // From here on they are not drawn.
    {1 << 12, long_names}, {1 << 13, long_names_within}, {1 << 14, tables_in_tables}, {1 << 15, large_images},
    {1 << 16, never_at_rest}, {1 << 17, never_answers}, {1 << 18, answers_commands}, {1 << 19, endless_link_maps},
};

int main(int count, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    self = arguments[0];
    seed = count > 1 ? strtoul(arguments[1], NULL, 0) : 1;
    state = seed * 0x9e3779b97f4a7c15 + 1;
    unsigned long drawn = draw(16) < 14 ? 1ul << draw(12) | 1ul << draw(12) : draw(4096);
    unsigned long wanted = count > 2 && *arguments[2] != '-' ? strtoul(arguments[2], NULL, 0) : drawn;
    target_file = count > 3 ? arguments[3] : "/dev/null";
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
        if (wanted & lies[i].bit)
            lies[i].tell();
    printf("ready %lu %lu\n", seed, wanted);
    for (int i = 0;; i++) {
        answer(i);
        usleep(1000 + draw(5000));
    }
}
