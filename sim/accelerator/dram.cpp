// DRAM behind an AXI4 subordinate: the part of bench.sv that is easier to say in C++.
//
// The memory is the file that the environment variable ACCELERATOR_DRAM names, mapped and shared: whoever maps it too
// sees every write. Once a clock cycle bench.sv hands over what the manager drives, and gets what it drives itself in
// the next cycle. Reads of one ID are answered in order; with reorder, words of different IDs come mixed. The rules of
// AXI that a manager can break are checked.

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "svdpi.h"

namespace {

constexpr uint64_t BORDER = 4096;
constexpr size_t REQUESTS = 64;  // that wait for their answer, for each of reads and writes
enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };

struct Request {
    uint64_t address;
    uint32_t words;
    uint8_t id;
    uint64_t due;
};

struct Answer {
    uint64_t due;
    uint8_t id;
    Response response;
};

struct Offer {  // what a channel of the manager showed while it had to wait
    bool waiting = false;
    uint64_t address = 0;
    uint32_t rest = 0;
    std::vector<uint8_t> data;
    bool operator==(const Offer& other) const {
        return address == other.address && rest == other.rest && data == other.data;
    }
};

uint8_t* memory = nullptr;
uint64_t bytes = 0, base = 0;

// Settings
uint64_t latency = 0, fault_address = 0;
uint32_t stall = 0, fault = 0;
bool reorder = false;

// State
uint64_t cycle, random_state;
std::deque<Request> reads, writes;
std::deque<Answer> answers;
std::deque<std::pair<std::vector<uint8_t>, std::pair<uint64_t, bool>>> words;  // data, strobe, last
uint32_t words_done;
bool arready, awready, wready, rvalid, bvalid;
uint8_t read_data[64];
uint32_t read_id, read_response, write_id, write_response;
bool read_last;
Offer offer_ar, offer_aw, offer_w;
const char* violation;

uint32_t draw(uint32_t limit) {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return static_cast<uint32_t>(((random_state * 0x2545F4914F6CDD1Dull) >> 32) * limit >> 32);
}

bool willing() { return !stall || draw(256) >= stall; }

void complain(const char* what) {
    if (!violation) {
        violation = what;
        fprintf(stderr, "AXI: cycle %llu: %s\n", static_cast<unsigned long long>(cycle), what);
    }
}

void open_memory() {
    const char* path = getenv("ACCELERATOR_DRAM");
    const int file = path ? open(path, O_RDWR) : -1;
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) {
        fprintf(stderr, "ACCELERATOR_DRAM must name a file that can be read and written, not %s\n", path ? path : "");
        exit(1);
    }
    bytes = static_cast<uint64_t>(status.st_size);
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    close(file);
    memory = static_cast<uint8_t*>(mapped);
}

Response response_to(bool write, uint64_t address, uint64_t size) {
    if (fault >> write & 1 && fault_address >= address && fault_address < address + size) return SLVERR;
    return address >= base && address - base <= bytes && size <= bytes - (address - base) ? OKAY : DECERR;
}

void check_hold(Offer& offer, bool valid, bool ready, Offer now) {
    if (offer.waiting && (!valid || !(offer == now))) complain("an offer changed before it was taken");
    offer = now;
    offer.waiting = valid && !ready;
}

Request request(uint64_t address, uint32_t length, uint32_t size, uint32_t burst, uint8_t id, uint32_t width) {
    const uint32_t count = length + 1;
    if (burst != 1 || 1u << size != width || address % width) complain("not INCR, not whole words, or not aligned");
    if (address / BORDER != (address + uint64_t{count} * width - 1) / BORDER) complain("a burst crosses a border");
    const uint64_t wait = latency + (stall ? draw(static_cast<uint32_t>(latency) + 1) : 0);
    return {address, count, id, cycle + wait};
}

}  // namespace

extern "C" void dram_configure(svBit reorder_, uint64_t base_, uint64_t seed, uint32_t latency_, uint32_t stall_,
                               uint32_t fault_, uint64_t fault_address_) {
    reorder = reorder_;
    base = base_;
    latency = latency_;
    stall = stall_;
    fault = fault_;
    fault_address = fault_address_;
    random_state = seed * 0x9E3779B97F4A7C15ull | 1;
}

extern "C" void dram_reset() {
    if (!memory) open_memory();
    cycle = 0;
    reads.clear();
    writes.clear();
    answers.clear();
    words.clear();
    words_done = 0;
    arready = awready = wready = rvalid = bvalid = false;
    offer_ar = offer_aw = offer_w = Offer();
    violation = nullptr;
}

// All data are at the lowest bits of 512.
extern "C" void dram_cycle(uint32_t width, svBit arvalid, uint64_t araddr, uint32_t arlen, uint32_t arsize,
                           uint32_t arburst, uint32_t arid, svBit awvalid, uint64_t awaddr, uint32_t awlen,
                           uint32_t awsize, uint32_t awburst, uint32_t awid, svBit wvalid, const svBitVecVal* wdata,
                           uint64_t wstrb, svBit wlast, svBit rready, svBit bready, svBit* arready_, svBit* awready_,
                           svBit* wready_, svBit* rvalid_, svBitVecVal* rdata, uint32_t* rid, uint32_t* rresp,
                           svBit* rlast, svBit* bvalid_, uint32_t* bid, uint32_t* bresp, svBit* violation_) {
    ++cycle;
    const auto* data = reinterpret_cast<const uint8_t*>(wdata);  // little-endian, as the memory
    if (arvalid || offer_ar.waiting)
        check_hold(offer_ar, arvalid, arready, {false, araddr, arlen | arid << 8 | arsize << 16, {}});
    if (awvalid || offer_aw.waiting)
        check_hold(offer_aw, awvalid, awready, {false, awaddr, awlen | awid << 8 | awsize << 16, {}});
    if ((wvalid && !wready) || offer_w.waiting)
        check_hold(offer_w, wvalid, wready, {false, wstrb, wlast, {data, data + width}});

    if (arvalid && arready) reads.push_back(request(araddr, arlen, arsize, arburst, arid, width));
    if (awvalid && awready) writes.push_back(request(awaddr, awlen, awsize, awburst, awid, width));
    if (wvalid && wready) words.push_back({{data, data + width}, {wstrb, wlast}});

    while (!writes.empty() && !words.empty()) {
        const Request& burst = writes.front();
        const auto& [word, rest] = words.front();
        const uint64_t address = burst.address + uint64_t{words_done} * width;
        if (response_to(true, address, width) == OKAY)
            for (uint32_t i = 0; i < width; ++i)
                if (rest.first >> i & 1) memory[address - base + i] = word[i];
        const bool last = ++words_done == burst.words;
        if (last != rest.second) complain("WLAST is not at the last word");
        words.pop_front();
        if (last) {
            const Response response = response_to(true, burst.address, uint64_t{burst.words} * width);
            answers.push_back({std::max(burst.due, cycle), burst.id, response});
            writes.pop_front();
            words_done = 0;
        }
    }

    if (rvalid && rready) rvalid = false;
    if (!rvalid && !reads.empty() && willing()) {
        size_t at = 0;
        if (reorder) {
            // The first of some ID: of those that are due.
            std::vector<size_t> ready;
            uint64_t seen[4] = {};
            for (size_t i = 0; i < reads.size(); ++i) {
                const uint8_t id = reads[i].id;
                if (!(seen[id / 64] >> id % 64 & 1) && reads[i].due <= cycle) ready.push_back(i);
                seen[id / 64] |= uint64_t{1} << id % 64;
            }
            at = ready.empty() ? reads.size() : ready[draw(static_cast<uint32_t>(ready.size()))];
        } else if (reads[0].due > cycle) {
            at = reads.size();
        }
        if (at < reads.size()) {
            Request& burst = reads[at];
            const Response response = response_to(false, burst.address, width);
            if (response != DECERR) memcpy(read_data, memory + (burst.address - base), width);
            burst.address += width;
            rvalid = true;
            read_id = burst.id;
            read_response = response;
            read_last = --burst.words == 0;
            if (!burst.words) reads.erase(reads.begin() + static_cast<long>(at));
        }
    }
    if (bvalid && bready) bvalid = false;
    if (!bvalid && !answers.empty() && answers.front().due <= cycle && willing()) {
        bvalid = true;
        write_id = answers.front().id;
        write_response = answers.front().response;
        answers.pop_front();
    }
    arready = reads.size() < REQUESTS && willing();
    awready = writes.size() + answers.size() < REQUESTS && willing();
    wready = words.size() < REQUESTS && willing();
    *arready_ = arready;
    *awready_ = awready;
    *wready_ = wready;
    *rvalid_ = rvalid;
    memcpy(rdata, read_data, sizeof read_data);
    *rid = read_id;
    *rresp = read_response;
    *rlast = read_last;
    *bvalid_ = bvalid;
    *bid = write_id;
    *bresp = write_response;
    *violation_ = violation != nullptr;
}
