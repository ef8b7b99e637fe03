// The threads of a CUDA block as fibers of one OS thread; blocks run one after another.
//
// A fiber runs until it waits (at a barrier or for its warp) or ends. When none can run, the barrier opens if all that
// are left wait at the same one; anything else is an error: launch() throws std::runtime_error that says who waits
// where. Between waits threads run in the order that `order` names, so that a missing barrier shows in at least one.
#pragma once

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <vector_types.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// A context is where a stack was left. On x86-64 a switch saves the registers that a call keeps; ucontext, which serves
// elsewhere, asks the kernel for the signal mask twice.
#if defined(__x86_64__)
extern "C" void on_host_switch(void** save, void* to);
asm(R"(
.text
.weak on_host_switch
.type on_host_switch, @function
on_host_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size on_host_switch, .-on_host_switch
)");
#endif

namespace on_host {

constexpr size_t kStack = 256 << 10;

#if defined(__x86_64__)
using Context = void*;
inline void switch_to(Context& from, Context& to) { on_host_switch(&from, to); }
inline void begin(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // where `entry` would return to; it never does, and finds the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context = top;
}
#else
using Context = ucontext_t;
inline void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }
inline void begin(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack, context.uc_stack.ss_size = kStack, context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Place {
  const char* file = "";
  int line = 0;
  bool operator==(const Place& other) const { return line == other.line && !std::strcmp(file, other.file); }
};

enum class State : uint8_t { kReady, kAtBarrier, kAtWarp, kDone };
enum class Order : int { kForward, kReverse, kRandom };

// What a warp does together: gets each lane's data, null for those that do not take part.
using Collective = void (*)(void** data, unsigned mask);

constexpr unsigned kWarp = 32;

struct Thread {
  uint3 index{};
  unsigned lane = 0, warp = 0;
  State state = State::kReady;
  Place place;
  unsigned mask = 0;  // of the collective that it waits for
  void* data = nullptr;
  Collective collective = nullptr;
  int predicate = 0;
  Context context;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Block {
  dim3 grid, size;
  uint3 index{};
  std::vector<Thread> threads;
  std::function<void()> body;
  int any = 0, all = 1, count = 0;  // of the predicates at the last barrier
  uint64_t warp_epochs[32] = {};    // collectives of each warp
  Context scheduler;
  const void* scheduler_stack = nullptr;
  size_t scheduler_size = 0;
  void* scheduler_fake = nullptr;
  std::string failure;
};

inline Block* block = nullptr;     // the one that runs
inline uint64_t blocks_begun = 0;
inline uint64_t epoch = 0;         // barriers opened so far, and blocks begun
inline Thread* current = nullptr;  // the one of its threads that runs
inline Order order = Order::kForward;
inline std::mt19937 shuffler;

inline std::vector<char*>& stacks() {
  static std::vector<char*> all;
  return all;
}

// A stack above a page that may not be touched.
inline char* stack_of(unsigned thread) {
  constexpr size_t page = 4096;
  while (stacks().size() <= thread) {
    void* memory = mmap(nullptr, kStack + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE)) throw std::runtime_error("no memory for a stack");
    stacks().push_back(static_cast<char*>(memory) + page);
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks()[thread], kStack);
#endif
  return stacks()[thread];
}

inline void to_scheduler(bool for_good = false) {
  Thread* me = current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &me->fake_stack, block->scheduler_stack, block->scheduler_size);
#endif
  switch_to(me->context, block->scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me->fake_stack, &block->scheduler_stack, &block->scheduler_size);
#endif
}

inline void to_thread(Thread& thread) {
  current = &thread;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block->scheduler_fake, thread.stack, kStack);
#endif
  switch_to(block->scheduler, thread.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block->scheduler_fake, nullptr, nullptr);
#endif
}

// Ends the launch from within a thread; the stacks of all of them are abandoned.
[[noreturn]] inline void fail(const std::string& what) {
  block->failure = what;
  to_scheduler(true);
  std::abort();
}

inline void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block->scheduler_stack, &block->scheduler_size);
#endif
  block->body();
  current->state = State::kDone;
  to_scheduler(true);
  std::abort();
}

enum class Vote { kNone, kAny, kAll, kCount };

inline int wait_at_barrier(int predicate, Vote vote, Place place) {
  current->state = State::kAtBarrier;
  current->place = place;
  current->predicate = predicate;
  to_scheduler();
  return vote == Vote::kAny ? block->any : vote == Vote::kAll ? block->all : block->count;
}

inline void wait_for_warp(unsigned mask, void* data, Collective collective, Place place) {
  if (!(mask >> current->lane & 1)) fail("the calling lane is not in the mask of a *_sync call");
  current->state = State::kAtWarp;
  current->mask = mask;
  current->data = data;
  current->collective = collective;
  current->place = place;
  to_scheduler();
}

// Runs every collective of the warp that begins at `first` for which all lanes have come; whether there was one.
inline bool run_collectives(unsigned first) {
  auto& threads = block->threads;
  const unsigned end = std::min<unsigned>(first + kWarp, threads.size());
  bool ran = false;
  for (unsigned i = first; i < end; i++) {
    const Thread& one = threads[i];
    if (one.state != State::kAtWarp) continue;
    void* data[kWarp] = {};
    unsigned there = 0;
    bool complete = true;
    for (unsigned j = first; j < end; j++) {
      const Thread& other = threads[j];
      if (!(one.mask >> other.lane & 1) || other.state == State::kDone) continue;
      const bool same = other.state == State::kAtWarp && other.mask == one.mask && other.place == one.place &&
                        other.collective == one.collective;
      complete &= same;
      if (same) data[other.lane] = other.data, there |= 1u << other.lane;
    }
    if (!complete) continue;
    one.collective(data, there);
    if (!block->failure.empty()) return false;
    for (unsigned j = first; j < end; j++)
      if (there >> threads[j].lane & 1) threads[j].state = State::kReady;
    block->warp_epochs[one.warp]++;
    ran = true;
  }
  return ran;
}

inline std::string who_waits(const char* what) {
  std::string text = what;
  unsigned shown = 0;
  for (const Thread& t : block->threads) {
    if (t.state == State::kDone || shown++ == 4) continue;
    if (shown > 4) break;
    text += "; thread " + std::to_string(t.index.x) + "," + std::to_string(t.index.y) + " waits " +
            (t.state == State::kAtBarrier ? "at __syncthreads" : "for its warp") + " in " + t.place.file + ":" +
            std::to_string(t.place.line);
  }
  return text;
}

// Opens the barrier at which all threads wait that have not ended.
inline void open_barrier() {
  const Thread* first = nullptr;
  block->any = 0, block->all = 1, block->count = 0;
  for (const Thread& t : block->threads) {
    if (t.state == State::kDone) continue;
    if (t.state == State::kAtWarp) throw std::runtime_error(who_waits("a warp waits for lanes that never come"));
    if (first && !(t.place == first->place))
      throw std::runtime_error(who_waits("threads of a block wait at different barriers"));
    if (!first) first = &t;
    block->any |= t.predicate != 0, block->all &= t.predicate != 0, block->count += t.predicate != 0;
  }
  for (const Thread& t : block->threads)
    if (t.state == State::kDone) throw std::runtime_error(who_waits("a barrier that some threads never reach"));
  for (Thread& t : block->threads) t.state = State::kReady;
  epoch++;
}

inline void run_block() {
  auto& threads = block->threads;
  const dim3 size = block->size;
  epoch++;
  blocks_begun++;
  for (unsigned i = 0; i < threads.size(); i++) {
    Thread& t = threads[i];
    t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    t.lane = i % kWarp, t.warp = i / kWarp;
    t.state = State::kReady;
    t.stack = stack_of(i);
    t.fake_stack = nullptr;
    begin(t.context, t.stack, &run_thread);
  }
  std::vector<unsigned> turns(threads.size());
  for (unsigned i = 0; i < turns.size(); i++) turns[i] = order == Order::kReverse ? turns.size() - 1 - i : i;
  const auto left = [&] { return std::any_of(threads.begin(), threads.end(), [](auto& t) { return t.state != State::kDone; }); };
  while (left()) {
    bool moved = false;
    if (order == Order::kRandom) std::shuffle(turns.begin(), turns.end(), shuffler);
    for (unsigned i : turns) {
      if (threads[i].state != State::kReady) continue;
      to_thread(threads[i]);
      moved = true;
      if (!block->failure.empty()) throw std::runtime_error(block->failure);
    }
    for (unsigned first = 0; first < threads.size(); first += kWarp) moved |= run_collectives(first);
    if (!block->failure.empty()) throw std::runtime_error(block->failure);
    if (!moved) open_barrier();
  }
}

// What a launch may be on every GPU that we build for.
inline void check(dim3 grid, dim3 size) {
  const uint64_t threads = uint64_t(size.x) * size.y * size.z;
  if (threads < 1 || threads > 1024 || size.z > 64) throw std::runtime_error("a block of " + std::to_string(threads) + " threads");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z));
}

template <class F>
void launch(dim3 grid, dim3 size, F&& body) {
  check(grid, size);
  Block one;
  one.grid = grid, one.size = size, one.body = std::forward<F>(body);
  one.threads.resize(size.x * size.y * size.z);
  block = &one;
  struct Leave {
    ~Leave() { block = nullptr, current = nullptr; }
  } leave;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        one.index = {x, y, z};
        run_block();
      }
}

}  // namespace on_host
