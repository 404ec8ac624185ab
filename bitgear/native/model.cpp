// Running a model: each thread takes whole images through the list of steps; those that are left over, fewer than there
// are threads, all threads take through it together, sharing the pixels or the channels of each step.
#include "model.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "dispatch.h"
#include "pass.h"
#include "pool.h"

namespace bitgear {
namespace {

constexpr int kTransposedPixels = 64;  // of the result, at a time

// Held for moments, of all models' lists of contexts. fork() waits for it: in a child nobody else would give it up.
std::mutex g_contexts_mutex;
const int g_fork_handler = pthread_atfork([] { g_contexts_mutex.lock(); }, [] { g_contexts_mutex.unlock(); },
                                          [] { g_contexts_mutex.unlock(); });

}  // namespace

// Memory of one thread of a call.
struct Model::Workspace {
    AlignedBytes arena;  // of one image
    AlignedBytes scratch;
    std::vector<float> floats;  // the result, channels last, where it has several pixels
};

// Memory of one call at a time.
struct Model::Context {
    std::vector<Workspace> threads;
    std::unique_ptr<Context> next;
};

Model::Model(const Isa* isa, Rates rates) : isa_(isa), rates_(std::move(rates)) {}
Model::~Model() = default;

void Model::Pass::run_step(const Step& step, int index, int count) const {
    fill_borders(step, index, count);
    std::visit([&](const auto& work) { run(step, work, index, count); }, step.work);
}

// One call: what its threads share.
struct Model::Call {
    const Model& model;
    Context& context;
    const std::int8_t* q_images;
    int batch;
    float* results;
    Barrier barrier;
    std::vector<double>* seconds;

    void work(int index, int count);
    void take_through(int image, int owner, int index, int count);
};

// What every thread of a call does. The number of threads is known only now: the barrier is told by the first.
void Model::Call::work(int index, int count) {
    const Entered entered(*model.isa_);
    const int whole = batch / count * count;
    for (int image = index; image < whole; image += count) take_through(image, index, 0, 1);
    if (whole > 0 && whole < batch && count > 1) barrier.wait(count);  // what follows uses the first thread's arena
    for (int image = whole; image < batch; ++image) take_through(image, 0, index, count);
}

// Takes an image through all steps in the arena of thread `owner`, as thread `index` of the `count` that do so.
void Model::Call::take_through(int image, int owner, int index, int count) {
    Workspace& shared = context.threads[sz(owner)];
    Workspace& own = context.threads[sz(owner + index)];
    const std::size_t pixels = sz(model.result_height_) * sz(model.result_width_), channels = model.result_channels_;
    float* result = results + sz(image) * pixels * channels;
    const Pass pass{model, shared.arena.data(), own.scratch.data(), q_images + sz(image) * model.image_bytes(),
                    pixels > 1 ? shared.floats.data() : result};
    using Clock = std::chrono::steady_clock;
    for (std::size_t s = 0; s < model.steps_.size(); ++s) {
        const Clock::time_point start = seconds != nullptr ? Clock::now() : Clock::time_point();
        pass.run_step(model.steps_[s], index, count);
        // After a call's last step there is nothing to meet for: its caller waits for all threads.
        const bool ends = pixels == 1 && s + 1 == model.steps_.size() && image + 1 == batch;
        if (count > 1 && !ends) barrier.wait(count);
        if (seconds != nullptr && owner + index == 0)
            (*seconds)[s] += std::chrono::duration<double>(Clock::now() - start).count();
    }
    if (pixels == 1) return;
    // Some pixels at a time, whose values the first cache holds.
    const Range mine = share(static_cast<int>(pixels), index, count);
    for (int begin = mine.begin; begin < mine.end; begin += kTransposedPixels) {
        const std::size_t first = sz(begin), end = sz(std::min(begin + kTransposedPixels, mine.end));
        for (std::size_t c = 0; c < channels; ++c) {
            for (std::size_t i = first; i < end; ++i) result[c * pixels + i] = pass.values[i * channels + c];
        }
    }
}

std::unique_ptr<Model::Context> Model::take_context(int threads) const {
    std::unique_ptr<Context> context;
    {
        const std::lock_guard<std::mutex> lock(g_contexts_mutex);
        if (contexts_ != nullptr) {
            context = std::move(contexts_);
            contexts_ = std::move(context->next);
        }
    }
    if (context == nullptr) context = std::make_unique<Context>();
    if (context->threads.size() >= sz(threads)) return context;
    while (context->threads.size() < sz(threads)) {
        Workspace& space = context->threads.emplace_back();
        for (auto [bytes, size] : {std::pair{&space.arena, arena_bytes_}, std::pair{&space.scratch, scratch_bytes_}}) {
            *bytes = AlignedBytes(size + overrun_bytes_);
            std::memset(bytes->data(), 0, bytes->size());
        }
        if (result_height_ * result_width_ > 1)
            space.floats.resize(result_channels_ * sz(result_height_) * sz(result_width_));
    }
    const std::lock_guard<std::mutex> lock(g_contexts_mutex);
    ++allocations_;
    return context;
}

void Model::give_back(std::unique_ptr<Context> context) const {
    const std::lock_guard<std::mutex> lock(g_contexts_mutex);
    context->next = std::move(contexts_);
    contexts_ = std::move(context);
}

void Model::run_call(const std::int8_t* q_images, int batch, int threads, float* results,
                     std::vector<double>* seconds) const {
    threads = usable_threads(threads);
    std::unique_ptr<Context> context = take_context(threads);
    Call call{*this, *context, q_images, batch, results, {}, seconds};
    run_parallel(
        threads, [](void* argument, int index, int count) { static_cast<Call*>(argument)->work(index, count); }, &call);
    give_back(std::move(context));
}

void Model::run(const std::int8_t* q_images, int batch, int threads, float* results) const {
    check_finished();
    check(threads >= 1, "a call needs a thread");
    run_call(q_images, batch, threads, results, nullptr);
}

std::vector<StepTime> Model::profile(const std::int8_t* q_images, int batch, int threads, int rounds) const {
    check_finished();
    check(threads >= 1 && batch >= 1 && rounds >= 1, "a measurement needs a thread, an image and a round");
    std::vector<float> results(sz(batch) * result_channels_ * sz(result_height_) * sz(result_width_));
    std::vector<std::vector<double>> all(steps_.size());
    for (int round = 0; round < rounds; ++round) {
        std::vector<double> seconds(steps_.size());
        run_call(q_images, batch, threads, results.data(), &seconds);
        for (std::size_t s = 0; s < steps_.size(); ++s) all[s].push_back(seconds[s]);
    }
    std::vector<StepTime> times;
    for (std::size_t s = 0; s < steps_.size(); ++s) {
        std::nth_element(all[s].begin(), all[s].begin() + rounds / 2, all[s].end());
        times.push_back({steps_[s].name, steps_[s].detail, steps_[s].macs * batch, all[s][sz(rounds / 2)]});
    }
    return times;
}

}  // namespace bitgear
