#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace bitgear {
namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr int kMaxThreads = 256;
constexpr int kSpins = 1000;  // tens of microseconds: longer than between two steps, short where cores are scarce

template <class Condition>
bool spin_until(Condition condition) {
    for (int i = 0; i < kSpins; ++i) {
        if (condition()) return true;
        relax();
    }
    return false;
}

#if defined(__linux__)
// Sees to it that the threads of a job begin on processors of their own. A thread that wakes up often does so on the
// processor of the one that woke it, which computes, and the kernel takes tens of milliseconds to part them: longer
// than most jobs last, which then take longer than with one thread.
class Places {
public:
    // The calling thread's processor is taken from now on. If another thread of the job has it, the calling thread
    // moves to one that is free, if it may run on one; it stays free to move later.
    void take() {
        const int here = sched_getcpu();
        if (here < 0 || here >= CPU_SETSIZE || claim(here)) return;
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        for (int other = 0; other < CPU_SETSIZE; ++other) {
            if (!CPU_ISSET(other, &allowed) || !claim(other)) continue;
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(other, &one);
            sched_setaffinity(0, sizeof one, &one);
            sched_setaffinity(0, sizeof allowed, &allowed);
            return;
        }
    }

private:
    static constexpr int kBits = 64;
    bool claim(int processor) {
        const std::uint64_t bit = std::uint64_t{1} << (processor % kBits);
        return (taken_[processor / kBits].fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
    }
    std::atomic<std::uint64_t> taken_[CPU_SETSIZE / kBits] = {};
};

using Processors = cpu_set_t;

// Those that the process may use, as far as can be told: its first thread's and the caller's. Either of them may be
// bound to some, as threads of an event loop or of OpenMP are; both are in a process that is.
Processors processors() {
    Processors of_first, of_caller, both;
    CPU_ZERO(&of_first);
    CPU_ZERO(&of_caller);
    sched_getaffinity(getpid(), sizeof of_first, &of_first);
    sched_getaffinity(0, sizeof of_caller, &of_caller);
    CPU_OR(&both, &of_first, &of_caller);
    return both;
}

// A thread starts on the processors of the one that starts it; a helper serves all others, too.
void run_on(const Processors& set) { sched_setaffinity(0, sizeof set, &set); }

int core_count() {
    const Processors all = processors();
    const int count = CPU_COUNT(&all);  // 0: there are more than fit the set
    return count > 0 ? count : static_cast<int>(std::thread::hardware_concurrency());
}
#else
struct Places {
    void take() {}
};

struct Processors {};

Processors processors() { return {}; }

void run_on(const Processors&) {}

int core_count() { return static_cast<int>(std::thread::hardware_concurrency()); }
#endif

struct Job {
    void (*body)(void*, int, int);
    void* argument;
    int count;
    std::atomic<int> running;
    Places places;
};

struct Helper {
    const Processors home = processors();
    std::atomic<Job*> job{nullptr};
    int index = 0;
    std::mutex mutex;
    std::condition_variable wake;
};

class Pool {
public:
    int acquire(int wanted, Helper** helpers) {
        const std::lock_guard<std::mutex> lock(mutex_);
        int found = 0;
        while (found < wanted) {
            if (!idle_.empty()) {
                helpers[found++] = idle_.back();
                idle_.pop_back();
            } else if (Helper* helper = start(); helper != nullptr) {
                helpers[found++] = helper;
            } else {
                break;
            }
        }
        return found;
    }

    void release(Helper** helpers, int count) {
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.insert(idle_.end(), helpers, helpers + count);
    }

private:
    Helper* start() {
        if (all_.size() + 1 >= static_cast<std::size_t>(usable_threads(kMaxThreads))) return nullptr;
        try {
            auto helper = std::make_unique<Helper>();
            all_.reserve(all_.size() + 1);  // what fails does so before there is a thread
            idle_.reserve(all_.size() + 1);
            std::thread(work, helper.get()).detach();
            all_.push_back(std::move(helper));
        } catch (const std::exception&) {
            return nullptr;  // no more threads, or no memory, to be had: the call runs with those it has
        }
        return all_.back().get();
    }

    static void work(Helper* self) {
        run_on(self->home);
        for (;;) {
            Job* job = nullptr;
            const auto has_job = [&] { return (job = self->job.load(std::memory_order_acquire)) != nullptr; };
            if (!spin_until(has_job)) {
                std::unique_lock<std::mutex> lock(self->mutex);
                self->wake.wait(lock, has_job);
            }
            self->job.store(nullptr, std::memory_order_relaxed);
            job->places.take();
            job->body(job->argument, self->index, job->count);
            job->running.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex mutex_;
    std::vector<std::unique_ptr<Helper>> all_;
    std::vector<Helper*> idle_;
};

// Never destroyed: helpers live until the process ends. A child of fork() has none of them and starts its own.
Pool* g_pool = new Pool;
const int g_fork_handler = pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });

}  // namespace

void Barrier::wait(int count) {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
        return;
    }
    const auto released = [&] { return phase_.load(std::memory_order_acquire) != phase; };
    while (!spin_until(released)) std::this_thread::yield();  // more threads than cores: let the others work
}

int usable_threads(int wanted) {
    static std::atomic<int> known{1};  // no lock, which a child of fork() might find held
    int most = known.load(std::memory_order_relaxed);
    if (wanted <= most) return wanted;
    most = std::max(most, std::min(core_count(), kMaxThreads));
    known.store(most, std::memory_order_relaxed);
    return std::min(wanted, most);
}

void run_parallel(int threads, void (*body)(void* argument, int index, int count), void* argument) {
    Helper* helpers[kMaxThreads];
    int found = 0;
    if (threads > 1) found = g_pool->acquire(usable_threads(threads) - 1, helpers);
    if (found == 0) {
        body(argument, 0, 1);
        return;
    }
    Job job{body, argument, found + 1, {found}, {}};
    job.places.take();
    for (int i = 0; i < found; ++i) {
        helpers[i]->index = i + 1;
        {
            const std::lock_guard<std::mutex> lock(helpers[i]->mutex);
            helpers[i]->job.store(&job, std::memory_order_release);
        }
        helpers[i]->wake.notify_one();
    }
    body(argument, 0, found + 1);
    const auto done = [&] { return job.running.load(std::memory_order_acquire) == 0; };
    while (!spin_until(done)) std::this_thread::yield();
    g_pool->release(helpers, found);
}

}  // namespace bitgear
