// Two-value simulation of a flat netlist, 64 runs of the same clock side by side: bit n of a word is run n. The cells'
// functions are generated for a library (simulator.py) and stand in place of CELLS. Cells are sorted by level, and by
// cell within a level, into chunks: only chunks with an input that has changed are evaluated. In timed cycles every
// change travels by its cell's delay instead, and pulses that are shorter than it vanish.

#include <cstdint>
#include <cstring>
#include <vector>

typedef uint64_t Word;

//CELLS

namespace {

inline int ones(Word word) { return __builtin_popcountll(word); }

struct Event {
    int32_t net, next;  // of the same net
    Word lanes;
};

struct Timed {
    std::vector<std::vector<int32_t>> wheel;
    std::vector<Event> events;
    std::vector<int32_t> unused, first;
    std::vector<Word> target, pending, before;
    std::vector<int64_t> stamp;
    std::vector<int32_t> touched;
    int64_t now = 0, waiting = 0, round = 0;
};

}  // namespace

extern "C" {

struct Stream {
    int32_t valid, ready, width, bytes;
    const int32_t *nets;     // of the payload
    const uint8_t *payload;  // rows of bytes
    const int64_t *first;    // row of each lane's first transfer
    const int64_t *count;    // transfers of each lane
    int64_t *position;       // transfers that are done
    Word enabled, offered;
    int32_t output;
    int64_t mismatches, lane, row, bit;  // of an output stream: the first one
};

struct Netlist {
    int64_t nets, chunks, flop_chunks, domains, streams;
    Word lanes;
    Word *value;
    // Combinational chunks, then those of flip-flops.
    const int32_t *chunk_cell, *chunk_domain;
    const int64_t *chunk_pins, *chunk_length;
    const int32_t *pins;
    const int64_t *fanout_first;
    const int32_t *fanout;
    uint8_t *dirty;
    // Clock domains: 0 is the root, the others behind a clock gate, each after the one that it gates.
    const int32_t *domain_net, *domain_parent, *domain_enable;
    const int64_t *domain_chunks_first;
    const int32_t *domain_chunks;
    Word *active;
    Stream *stream;
    // Statistics
    int64_t cycle;
    int64_t *toggles, *high, *since;
    // Timed cycles: instances of each net's readers, instances' cells, pins and delays of their outputs.
    const int64_t *reader_first;
    const int32_t *readers;
    const int32_t *instance_cell;
    const int64_t *instance_pins;
    const int32_t *net_delay;
    int64_t horizon, longest;
    int64_t *timed_toggles;
    void *timed;
    // Scratch
    int32_t *changed_net;
    Word *changed_value;
};

static inline void count(Netlist &n, int32_t net, Word before, Word difference) {
    n.high[net] += ones(before & n.lanes) * (n.cycle - n.since[net]);
    n.since[net] = n.cycle;
    n.toggles[net] += ones(difference & n.lanes);
}

static inline void mark(Netlist &n, int32_t net) {
    for (int64_t i = n.fanout_first[net]; i < n.fanout_first[net + 1]; i++) n.dirty[n.fanout[i]] = 1;
}

static inline void set(Netlist &n, int32_t net, Word value) {
    const Word difference = value ^ n.value[net];
    if (!difference) return;
    count(n, net, n.value[net], difference);
    n.value[net] = value;
    mark(n, net);
}

static void settle(Netlist &n) {
    for (int64_t c = 0; c < n.chunks; c++) {
        if (!(c & 7)) {
            uint64_t eight;
            while (c + 8 <= n.chunks && (std::memcpy(&eight, n.dirty + c, 8), !eight)) c += 8;
            if (c >= n.chunks) break;
        }
        if (!n.dirty[c]) continue;
        n.dirty[c] = 0;
        const int64_t width = PINS[n.chunk_cell[c]];
        const int32_t *pins = n.pins + n.chunk_pins[c];
        Word out[MOST_OUTPUTS];
        const int inputs = INPUTS[n.chunk_cell[c]], outputs = OUTPUTS[n.chunk_cell[c]];
        for (int64_t i = 0; i < n.chunk_length[c]; i++, pins += width) {
            evaluate(n.chunk_cell[c], n.value, pins, out);
            for (int o = 0; o < outputs; o++) set(n, pins[inputs + o], out[o]);
        }
    }
}

static void apply(Netlist &n, Timed &t, int32_t net, Word lanes) {
    n.timed_toggles[net] += ones(lanes & n.lanes);
    n.value[net] ^= lanes;
    for (int64_t i = n.reader_first[net]; i < n.reader_first[net + 1]; i++) {
        const int32_t instance = n.readers[i];
        if (t.stamp[instance] != t.round) {
            t.stamp[instance] = t.round;
            t.touched.push_back(instance);
        }
    }
}

static void schedule(Netlist &n, Timed &t, int32_t net, Word value) {
    Word lanes = value ^ t.target[net];
    if (!lanes) return;
    t.target[net] = value;
    const Word shorter = lanes & t.pending[net];
    if (shorter) {
        for (int32_t e = t.first[net]; e >= 0; e = t.events[e].next) t.events[e].lanes &= ~shorter;
        t.pending[net] &= ~shorter;
        lanes &= ~shorter;
        if (!lanes) return;
    }
    t.pending[net] |= lanes;
    int32_t e;
    if (t.unused.empty()) {
        e = static_cast<int32_t>(t.events.size());
        t.events.push_back({});
    } else {
        e = t.unused.back();
        t.unused.pop_back();
    }
    t.events[e] = {net, t.first[net], lanes};
    t.first[net] = e;
    t.wheel[(t.now + n.net_delay[net]) % t.wheel.size()].push_back(e);
    t.waiting++;
}

static void settle_timed(Netlist &n, Timed &t) {
    while (t.waiting) {
        std::vector<int32_t> &slot = t.wheel[t.now % t.wheel.size()];
        if (!slot.empty()) {
            t.round++;
            t.touched.clear();
            for (int32_t e : slot) {
                const int32_t net = t.events[e].net;
                const Word lanes = t.events[e].lanes;
                int32_t *link = &t.first[net];
                while (*link != e) link = &t.events[*link].next;
                *link = t.events[e].next;
                t.pending[net] &= ~lanes;
                t.unused.push_back(e);
                if (lanes) apply(n, t, net, lanes);
            }
            t.waiting -= static_cast<int64_t>(slot.size());
            slot.clear();
            Word out[MOST_OUTPUTS];
            for (int32_t instance : t.touched) {
                const int cell = n.instance_cell[instance];
                const int32_t *pins = n.pins + n.instance_pins[instance];
                evaluate(cell, n.value, pins, out);
                for (int o = 0; o < OUTPUTS[cell]; o++) schedule(n, t, pins[INPUTS[cell] + o], out[o]);
            }
        }
        t.now++;
        if (t.now > n.longest) n.longest = t.now;
        if (t.now > n.horizon) return;
    }
}

void timed_start(Netlist *n, int64_t instances, int64_t slots) {
    Timed *t = new Timed;
    t->wheel.resize(slots);
    t->first.assign(n->nets, -1);
    t->target.assign(n->value, n->value + n->nets);
    t->pending.assign(n->nets, 0);
    t->stamp.assign(instances, 0);
    n->timed = t;
}

void timed_end(Netlist *n) {
    delete static_cast<Timed *>(n->timed);
    n->timed = nullptr;
}

// Runs some clock cycles: what streams transfer, the edge, what they offer next, and all that follows from it.
void run(Netlist *netlist, int64_t cycles) {
    Netlist &n = *netlist;
    Timed *timed = static_cast<Timed *>(n.timed);
    for (; cycles > 0; cycles--) {
        // Transfers
        for (int64_t s = 0; s < n.streams; s++) {
            Stream &stream = n.stream[s];
            Word moved = n.value[stream.valid] & n.value[stream.ready] & n.lanes;
            for (; moved; moved &= moved - 1) {
                const int lane = __builtin_ctzll(moved);
                const int64_t position = stream.position[lane]++;
                if (!stream.output) {
                    stream.offered &= ~(Word(1) << lane);
                    continue;
                }
                const bool wanted = position < stream.count[lane];
                const uint8_t *row = stream.payload + (stream.first[lane] + position) * stream.bytes;
                for (int32_t b = 0; b < stream.width; b++) {
                    const int value = n.value[stream.nets[b]] >> lane & 1;
                    if (wanted && value == (row[b >> 3] >> (b & 7) & 1)) continue;
                    if (!stream.mismatches++) stream.lane = lane, stream.row = position, stream.bit = b;
                    if (!wanted) break;
                }
            }
        }
        n.cycle++;
        // The clock: gates first, then what flip-flops take.
        for (int64_t d = 0; d < n.domains; d++) {
            Word active = n.lanes;
            if (d) {
                active = n.active[n.domain_parent[d]] & n.value[n.domain_enable[d]];
                if (active != n.active[d])
                    for (int64_t i = n.domain_chunks_first[d]; i < n.domain_chunks_first[d + 1]; i++)
                        n.dirty[n.domain_chunks[i]] = 1;
            }
            n.active[d] = active;
            n.toggles[n.domain_net[d]] += 2 * ones(active & n.lanes);
            if (timed) n.timed_toggles[n.domain_net[d]] += 2 * ones(active & n.lanes);
        }
        int64_t changes = 0;
        for (int64_t c = n.chunks; c < n.chunks + n.flop_chunks; c++) {
            if (!n.dirty[c]) continue;
            n.dirty[c] = 0;
            const int cell = n.chunk_cell[c];
            const Word active = n.active[n.chunk_domain[c]];
            const int32_t *pins = n.pins + n.chunk_pins[c];
            const int inputs = INPUTS[cell], outputs = OUTPUTS[cell];
            Word out[MOST_OUTPUTS];
            for (int64_t i = 0; i < n.chunk_length[c]; i++, pins += PINS[cell]) {
                evaluate(cell, n.value, pins, out);
                for (int o = 0; o < outputs; o++) {
                    const int32_t net = pins[inputs + o];
                    const Word next = (out[o] & active) | (n.value[net] & ~active);
                    if (next == n.value[net]) continue;
                    n.changed_net[changes] = net;
                    n.changed_value[changes++] = next;
                }
            }
        }
        if (timed) {
            timed->now = 0;
            timed->before.assign(n.value, n.value + n.nets);
        }
        for (int64_t i = 0; i < changes; i++) {
            if (timed) schedule(n, *timed, n.changed_net[i], n.changed_value[i]);
            else set(n, n.changed_net[i], n.changed_value[i]);
        }
        // What input streams offer
        for (int64_t s = 0; s < n.streams; s++) {
            Stream &stream = n.stream[s];
            if (stream.output) continue;
            Word offered = stream.offered;
            for (Word idle = n.lanes & stream.enabled & ~offered; idle; idle &= idle - 1) {
                const int lane = __builtin_ctzll(idle);
                if (stream.position[lane] >= stream.count[lane]) continue;
                const Word bit = Word(1) << lane;
                offered |= bit;
                const uint8_t *row = stream.payload + (stream.first[lane] + stream.position[lane]) * stream.bytes;
                for (int32_t b = 0; b < stream.width; b++) {
                    const int32_t net = stream.nets[b];
                    const Word before = timed ? timed->target[net] : n.value[net];
                    const Word after = row[b >> 3] >> (b & 7) & 1 ? before | bit : before & ~bit;
                    if (timed) schedule(n, *timed, net, after);
                    else set(n, net, after);
                }
            }
            stream.offered = offered;
            if (timed) schedule(n, *timed, stream.valid, offered);
            else set(n, stream.valid, offered);
        }
        if (!timed) {
            settle(n);
            continue;
        }
        settle_timed(n, *timed);
        if (timed->waiting) return;
        for (int64_t net = 0; net < n.nets; net++)
            if (n.value[net] != timed->before[net])
                count(n, net, timed->before[net], n.value[net] ^ timed->before[net]);
        // Flip-flops find out which of their inputs have changed.
        std::memset(n.dirty + n.chunks, 1, n.flop_chunks);
    }
}

void force(Netlist *n, int32_t net, Word value) { set(*n, net, value); }

void settled(Netlist *n) { settle(*n); }

// Ends a window of statistics: brings the time that nets are high up to now.
void flush(Netlist *n) {
    for (int64_t net = 0; net < n->nets; net++) {
        n->high[net] += ones(n->value[net] & n->lanes) * (n->cycle - n->since[net]);
        n->since[net] = n->cycle;
    }
}

}  // extern "C"
