// Threads that help calls, shared by all models of the process.
#pragma once

#include <atomic>

namespace bitgear {

// Where the threads of one call meet between two steps. Spins: steps last microseconds.
class Barrier {
public:
    // Waits until `count` threads wait; all give the same count.
    void wait(int count);

private:
    std::atomic<int> arrived_{0};
    std::atomic<int> phase_{0};
};

// How many threads of those wanted a call can have: no more than there are processors that the process may use, as far
// as that was ever seen. The system is asked only by whoever wants more.
int usable_threads(int wanted);

// Calls body(argument, index, count) on the calling thread and on up to `threads` - 1 idle helpers, count in all, each
// with an index of its own. Helpers that work for another call are not waited for: a call then runs with fewer threads.
// `body` must not throw. At most as many helpers exist as the processor has cores, less one.
void run_parallel(int threads, void (*body)(void* argument, int index, int count), void* argument);

}  // namespace bitgear
