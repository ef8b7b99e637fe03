// What -fsanitize=thread calls at every access to memory, without its runtime: counts the traffic of watched buffers and
// finds races on shared memory.
//
// A watched buffer has for reads and writes: the distinct 32-byte sectors that each block touches, added up over blocks
// (what a block finds again in its first-level cache costs nothing, what another block has read does), and how many
// accesses of each width there were. A race: two threads of a block, at least one writing, reach one byte of shared
// memory with no barrier between them, nor, within a warp, a collective. Only what a kernel's thread does counts.
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

#include "cuda_on_host.h"

namespace {

constexpr uintptr_t kSector = 32;

struct Direction {
  uint64_t sectors = 0;
  std::map<size_t, uint64_t> accesses;  // by width
  std::vector<uint64_t> block_of;       // which block touched each sector last
};

struct Buffer {
  std::string name;
  uintptr_t begin, end;
  std::array<Direction, 2> directions;  // reads, writes
};

struct Touched {
  uint64_t epoch = 0, warp_epoch = 0;
  unsigned thread = 0;
  bool several = false;  // threads of other warps too, in the same epoch
  bool mates = false;    // other threads of this warp too, in the same epoch of the warp
};

struct Byte {
  Touched write, read;
};

std::vector<Buffer> buffers;
std::map<std::string, int> made;  // new tensors of each kind
Byte* shared = nullptr;           // one for each byte of the statics; the pages of those that no kernel uses stay unmapped
std::string race, report;
bool counting = false;
uintptr_t statics_begin = 0, statics_end = 0;  // of this library: where __shared__ arrays lie

int find_statics(dl_phdr_info* info, size_t, void* here) {
  const auto at = reinterpret_cast<uintptr_t>(here);
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& part = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_LOAD && (part.p_flags & PF_W) && at >= begin && at < begin + part.p_memsz) {
      statics_begin = begin, statics_end = begin + part.p_memsz;
      return 1;
    }
  }
  return 0;
}

// Whether an earlier access by another thread has no order with this one.
bool unordered(const Touched& earlier, const on_host::Thread& me, unsigned number) {
  if (earlier.epoch != on_host::epoch) return false;
  if (earlier.several || earlier.thread / on_host::kWarp != me.warp) return true;
  return (earlier.mates || earlier.thread != number) && earlier.warp_epoch == on_host::block->warp_epochs[me.warp];
}

void touch(Touched& t, const on_host::Thread& me, unsigned number) {
  const bool again = t.epoch == on_host::epoch, same_warp = t.thread / on_host::kWarp == me.warp;
  const bool same_time = same_warp && t.warp_epoch == on_host::block->warp_epochs[me.warp];
  t.several = again && (t.several || !same_warp);
  t.mates = again && same_time && (t.mates || t.thread != number);
  t.epoch = on_host::epoch, t.thread = number, t.warp_epoch = on_host::block->warp_epochs[me.warp];
}

void on_shared(uintptr_t at, size_t width, bool write, const on_host::Thread& me) {
  const unsigned number = me.warp * on_host::kWarp + me.lane;
  for (uintptr_t byte = at; byte < at + width; byte++) {
    Byte& known = shared[byte - statics_begin];
    if (race.empty() && (unordered(known.write, me, number) || (write && unordered(known.read, me, number))))
      race = std::string("threads ") + std::to_string(known.write.epoch == on_host::epoch ? known.write.thread : known.read.thread) +
             " and " + std::to_string(number) + " of block " + std::to_string(on_host::block->index.x) +
             " race on shared memory";
    touch(write ? known.write : known.read, me, number);
  }
}

void access(const void* pointer, size_t width, bool write) {
  if (!counting || !on_host::current || !on_host::block) return;
  const auto& me = *on_host::current;
  const auto on_stack = [&](const void* p) { return p >= me.stack && p < me.stack + on_host::kStack; };
  if (!on_stack(__builtin_frame_address(0)) || on_stack(pointer)) return;  // the scheduler's own, or a local variable
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  for (Buffer& b : buffers) {
    if (at < b.begin || at >= b.end) continue;
    Direction& d = b.directions[write];
    d.accesses[width]++;
    const uintptr_t end = std::min(at + width, b.end), first = b.begin / kSector;
    for (uintptr_t sector = at / kSector - first; sector <= (end - 1) / kSector - first; sector++) {
      if (d.block_of[sector] == on_host::blocks_begun) continue;
      d.block_of[sector] = on_host::blocks_begun, d.sectors++;
    }
    return;
  }
  if (at >= statics_begin && at + width <= statics_end) on_shared(at, width, write, me);
}

}  // namespace

extern "C" {

void count_begin() {
  static int here;
  if (!shared) {
    dl_iterate_phdr(find_statics, &here);
    void* const pages = mmap(nullptr, (statics_end - statics_begin) * sizeof(Byte), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) throw std::runtime_error("no memory to watch shared memory with");
    shared = static_cast<Byte*>(pages);
  }
  buffers.clear(), made.clear(), race.clear();
  counting = true;
}

void count_watch(const char* name, const void* begin, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(begin);
  const Direction untouched{0, {}, std::vector<uint64_t>((at + bytes) / kSector - at / kSector + 1)};
  buffers.push_back({name, at, at + bytes, {untouched, untouched}});
}

// A new tensor, watched as the first, second ... of its kind: out0, out1.
void count_new(const char* kind, const void* begin, size_t bytes) {
  if (counting) count_watch((kind + std::to_string(made[kind]++)).c_str(), begin, bytes);
}

// JSON: {"race": text, "buffers": {name: {"bytes": n, "read": {"sectors": n, "accesses": {width: n}}, "write": ...}}}
const char* count_end() {
  counting = false;
  report = "{\"race\": \"" + race + "\", \"buffers\": {";
  for (size_t i = 0; i < buffers.size(); i++) {
    report += (i ? ", \"" : "\"") + buffers[i].name + "\": {\"bytes\": " + std::to_string(buffers[i].end - buffers[i].begin);
    for (int write = 0; write < 2; write++) {
      const Direction& d = buffers[i].directions[write];
      report += std::string(write ? ", \"write" : ", \"read") + "\": {\"sectors\": " + std::to_string(d.sectors) + ", \"accesses\": {";
      bool first = true;
      for (const auto& [width, count] : d.accesses) {
        report += (first ? "\"" : ", \"") + std::to_string(width) + "\": " + std::to_string(count);
        first = false;
      }
      report += "}}";
    }
    report += "}";
  }
  report += "}}";
  return report.c_str();
}

#define COUNTED(width)                                                             \
  void __tsan_read##width(void* p) { access(p, width, false); }                    \
  void __tsan_write##width(void* p) { access(p, width, true); }                    \
  void __tsan_unaligned_read##width(void* p) { access(p, width, false); }          \
  void __tsan_unaligned_write##width(void* p) { access(p, width, true); }          \
  void __tsan_volatile_read##width(void* p) { access(p, width, false); }           \
  void __tsan_volatile_write##width(void* p) { access(p, width, true); }
COUNTED(1)
COUNTED(2)
COUNTED(4)
COUNTED(8)
COUNTED(16)
void __tsan_read_range(void* p, size_t bytes) { access(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { access(p, bytes, true); }
char __tsan_atomic8_load(const volatile char* p, int) { return *p; }  // of the guards of static variables
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
