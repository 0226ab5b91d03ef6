// The selective scan of one row.
#pragma once
#include "ssm.cuh"

#define SCAN_CHANNELS 16  // half-warps that have a channel each, where the others have a held token each
#define SCAN_SLOTS 2      // rows that a half-warp has at most
#define SLOT_ELEMENTS (ELEMENTS_MOST / SCAN_SLOTS)
#define EARLY_DECAYS 4    // of a thread's elements

// Channels of a unit: not fewer than half the half-warps have, so that fewer blocks ask for the same numbers, and by eights. With a decay per head
// the other half-warps have a held token each, and all of them another channel where two rows are short enough for registers.
__device__ INLINE u32 scan_channels(const Scan& p) {
    u32 second = p.d_state <= 16 * SLOT_ELEMENTS ? HALVES : 0;
    u32 few = channels_at_once(p, 1, p.time.per_element ? HALVES : SCAN_CHANNELS + second);
    return few < SCAN_CHANNELS ? SCAN_CHANNELS : div_up(few, 8) * 8;
}

// Whether half-warps have a second row.
__device__ INLINE bool has_second(const Scan& p) { return !p.time.per_element && scan_channels(p) > SCAN_CHANNELS; }

// `each(slot)` for the rows of a half-warp.
template <class Each>
__device__ INLINE void for_slots(const Scan& p, Each each) {
    each(0);
    if (has_second(p)) each(1);
}

// Whether a half-warp's first row is that of a held token.
__device__ INLINE bool has_token(const Scan& p, u32 half_warp) { return !p.time.per_element && half_warp >= SCAN_CHANNELS; }

// The channel of a unit that a half-warp has in a slot, if it is none of a token.
__device__ INLINE u32 slot_channel(u32 slot, u32 half_warp) { return slot * SCAN_CHANNELS + half_warp; }

// Whether a warp has channels of a unit in a slot.
__device__ INLINE bool scans(Run run, const Scan& p, u32 slot) {
    u32 first = run.warp() * 2;
    return !(slot == 0 && has_token(p, first)) && slot_channel(slot, first) < scan_channels(p);
}

// `each(e, i)` for a thread's elements `i` of the row of `n` in a slot, which are elements `e` of `EarlyScan::row`.
template <class Each>
__device__ INLINE void for_row(Run run, u32 n, u32 slot, Each each) {
    if (slot == 0) for_elements(run, n, each);
    else for_elements<SLOT_ELEMENTS>(run, n, [&](int e, u32 i) { each(e + SLOT_ELEMENTS, i); });
}

#define UNIT_CHANNELS (SCAN_CHANNELS + HALVES)  // at most, of a unit with held tokens

// Of held tokens what the unit's channels need, dt · x and decays (rows apart such that those of a channel lie in several banks), and of the
// group `C · B`.
struct Tokens {
    float u[HELD][UNIT_CHANNELS + 1], keep[HELD][UNIT_CHANNELS + 1], sums[HELD];
};

__device__ INLINE Tokens& tokens_of(Run run) {
    static_assert(sizeof(Tokens) <= TOKENS * sizeof(float), "no room for tokens");
    return *(Tokens*)run.shared().tokens;
}

// `each(k, token, channel)` for the elements that a thread brings of dt · x and of the decays.
#define TOKEN_ELEMENTS 2
static_assert(WARPS == HELD, "a warp brings a token");
template <class Each>
__device__ INLINE void for_token_elements(Run run, const Scan& p, Each each) {
    if (run.thread < HELD * SCAN_CHANNELS) each(0, run.thread / SCAN_CHANNELS, run.thread % SCAN_CHANNELS);
    if (has_second(p)) each(1, run.warp(), SCAN_CHANNELS + run.lane());
}

// What a thread has asked for before the barrier for a channel of its half-warp: the convolution, and weights of dt.
struct EarlyChannel {
    float bias, a_log2, d;
    Taps x;
};

// And for all of them: rows of the state or of the held tokens. Zeros as in `EarlyProduct`.
struct EarlyScan {
    float row[ELEMENTS_MOST], decay[EARLY_DECAYS], u[TOKEN_ELEMENTS], keep[TOKEN_ELEMENTS];
    EarlyChannel channels[SCAN_SLOTS];
    Taps bc;
    EarlyRow step;
};

// Asks for what a unit needs and no operation before it makes. What is held in the place of the row itself, and in those behind it, comes
// too and is not used.
__device__ INLINE void ask_unit(Run run, const Scan& p, const Unit& unit, EarlyScan& early) {
    if (!p.time.per_element)
        for_token_elements(run, p, [&](u32 k, u32 place, u32 own) {
            HeldToken token = held_token(run, p, Only(), place);
            u32 channel = unit.channel(own);
            early.u[k] = load_float(token.u + channel), early.keep[k] = load_float(token.decay + channel / p.head_dim);
        });
    for_slots(p, [&](u32 slot) {
        u32 n = p.d_state, own = slot_channel(slot, run.half_warp()), channel = unit.channel(own), head = channel / p.head_dim;
        bool is_token = slot == 0 && has_token(p, run.half_warp());
        if (!is_token && unit.first + own >= unit.end) return;
        const float* row = run.state(Only(), p.state) + (u64)channel * n;
        if (is_token) row = held_token(run, p, Only(), run.half_warp() - SCAN_CHANNELS).b + unit.group * n;
        const float* a_log2 = run.weights(p.time.a_log2) + (u64)head * n;
        row = settled(row + run.half_lane()), a_log2 = settled(a_log2 + run.half_lane());
        for_row(run, n, slot, [&](int e, u32 i) {
            early.row[e] = load_float(row + (i - run.half_lane()));
            if (e < EARLY_DECAYS && p.time.per_element) early.decay[e] = load_float(a_log2 + 16 * e);
        });
        if (is_token) return;
        EarlyChannel& to = early.channels[slot];
        if (p.dt_proj.data != NONE) ask_row(run, p.dt_proj, head, 0, early.step);
        if (p.conv.width <= TAPS) load_taps(run, p.conv, Only(), channel, 0, to.x);
        if (!p.time.sigmoid) {
            to.bias = load_float(run.weights(p.time.bias) + head);
            if (!p.time.per_element) to.a_log2 = load_float(run.weights(p.time.a_log2) + head);
        }
        to.d = load_float(run.weights(p.d) + channel);
    });
}

// A thread's number among those that convolve B and C: first come those of the half-warps that have no channel.
__device__ INLINE u32 mixer(Run run) { return (run.thread + THREADS / 2) % THREADS; }

// Whether a thread convolves an element of B or C whose taps come early.
__device__ INLINE bool mixes(Run run, const Scan& p) {
    return p.dt_proj.data == NONE && p.conv.width <= TAPS && mixer(run) < 2 * p.n_groups * p.d_state;
}

// What the operations before have made for a unit: x, z and raw dt of a thread's channels, and of the first unit its element of B or C, or
// of the row that these come from.
struct ScanInput {
    Posted x[SCAN_SLOTS], z[SCAN_SLOTS], dt[SCAN_SLOTS], mixed;
};

// `each(v, i, asked)` for those numbers, element `i` of `v`; but for z if that comes last.
template <class Each>
__device__ INLINE void for_input(Run run, const Scan& p, const Unit& unit, bool is_first, ScanInput& input, Each each) {
    u32 bc = p.n_groups * p.d_state;
    bool has_select = p.dt_proj.data != NONE;
    for_slots(p, [&](u32 slot) {
        if (!scans(run, p, slot)) return;
        u32 channel = unit.channel(slot_channel(slot, run.half_warp()));
        each(p.conv.x, channel, input.x[slot]);
        if (p.z.start != NONE && !p.z_last) each(p.z, channel, input.z[slot]);
        if (!has_select) each(p.dt, channel / p.head_dim, input.dt[slot]);
    });
    if (is_first && has_select && run.thread < p.rank + 2 * bc) each(p.select, run.thread, input.mixed);
    if (is_first && mixes(run, p)) each(p.conv.x, p.heads * p.head_dim + mixer(run), input.mixed);
}

__device__ INLINE ScanInput ask_input(Run run, const Scan& p, const Unit& unit, bool is_first) {
    ScanInput input = {};
    for_input(run, p, unit, is_first, input, [&](Vector v, u32 i, Posted& asked) { asked = ask(run, v, i); });
    for_slots(p, [&](u32 slot) {
        if (p.z_last && scans(run, p, slot)) input.z[slot] = ask(run, p.z, unit.channel(slot_channel(slot, run.half_warp())));
    });
    return input;
}

__device__ INLINE void ask_scan(Run run, u32 passed, const Scan& p, EarlyScan& early) {
    ask_unit(run, p, unit_of(p, scan_channels(p), first_unit(passed)), early);
    if (mixes(run, p)) load_taps(run, p.conv, Only(), mixer(run), p.heads * p.head_dim, early.bc);
}

// What a thread has of a channel of its half-warp. `token_left` is left of what the held token whose number is the lane's added to the state,
// `left` of that itself.
struct ScanChannel {
    u32 channel, head;
    bool is_there;
    Posted z;
    float x, dt, decay, d, u, sum, token_u, token_left, left;
};

// silu(x), silu(z) unless z comes last, and softplus(dt): for each channel four threads of a half-warp make the exponentials and the quotients,
// which all get.
__device__ INLINE void activate_together(Run run, const Scan& p, ScanChannel (&own)[SCAN_SLOTS]) {
    u32 part = run.half_lane() % 4, first = run.lane() & 16;
    auto part_of = [&](const ScanChannel& c) { return part == 0 ? c.x : part == 1 ? c.z.value : c.dt; };
    float v = has_second(p) && (run.half_lane() & 4) ? part_of(own[1]) : part_of(own[0]);
    bool is_step = part >= 2;
    float t = exp_core(is_step && v < 0.0f ? v : -v);
    float quotient = (is_step ? t : v) / ((is_step ? 2.0f : 1.0f) + t);
    for_slots(p, [&](u32 slot) {
        ScanChannel& c = own[slot];
        c.x = __shfl_sync(FULL, quotient, first + 4 * slot);
        if (!p.z_last) c.z.value = __shfl_sync(FULL, quotient, first + 4 * slot + 1);
        c.dt = softplus_of(c.dt, __shfl_sync(FULL, quotient, first + 4 * slot + 2));
    });
}

// z of a thread's channels, which comes last, becomes silu(z): for each a thread of a half-warp makes that, and all get it. Nobody waits for
// a channel that is another's: when that one has its result z may be written anew.
__device__ INLINE void come_gates(Run run, const Scan& p, ScanChannel (&own)[SCAN_SLOTS]) {
    for_slots(p, [&](u32 slot) {
        ScanChannel& c = own[slot];
        if (c.is_there) c.z.value = come(run, p.z, c.channel, 0, c.z);
    });
    float gate = silu(has_second(p) && (run.half_lane() & 1) ? own[1].z.value : own[0].z.value);
    for_slots(p, [&](u32 slot) { own[slot].z.value = __shfl_sync(FULL, gate, (run.lane() & 16) + slot); });
}

// What is read between two barriers is asked for first. With a decay per head half-warps make `C · h` of channels or `C · B` of a token, and
// the row becomes a held token: its place is read by nobody meanwhile.
__device__ INLINE void scan_one(Run run, u32 passed, const Scan& p, EarlyScan& early, ScanInput input) {
    u32 channels = p.heads * p.head_dim, most = scan_channels(p), units = unit_count(p, most), n = p.d_state;
    u32 bc = p.n_groups * n, place = run.position(Only()) % HELD, token = run.half_warp() - SCAN_CHANNELS;
    bool has_select = p.dt_proj.data != NONE, few_taps = p.conv.width <= TAPS, by_head = !p.time.per_element, has_z = p.z.start != NONE;
    bool is_token = has_token(p, run.half_warp());
    Tokens& tokens = tokens_of(run);
    auto of_token = [&](float x, u32 j) { return __shfl_sync(FULL, x, (run.lane() & 16) + j); };
    // With the last of `HELD` tokens a unit's rows are needed to its end; else the next unit's are asked for before.
    bool takes_in = by_head && place == HELD - 1;
    for (u32 round = 0; round < div_up(units, blocks()); round++) {
        u32 index = first_unit(passed) + round * blocks();
        if (index >= units) break;
        bool is_first = round == 0, has_bc = is_first && mixes(run, p);
        Unit unit = unit_of(p, most, index);
        if (!is_first) {
            if (takes_in) input = ask_input(run, p, unit, false), ask_unit(run, p, unit, early);
            // The tokens of the unit before have been read.
            sync_block();
        }
        // One after another: there are few, and what asks for all of them together takes longer.
        for_input(run, p, unit, is_first, input, [&](Vector v, u32 i, Posted& asked) { asked.value = come(run, v, i, 0, asked); });
        ScanChannel own[SCAN_SLOTS] = {};
        for_slots(p, [&](u32 slot) {
            ScanChannel& c = own[slot];
            u32 i = slot_channel(slot, run.half_warp());
            c.channel = unit.channel(i), c.head = c.channel / p.head_dim, c.d = early.channels[slot].d;
            if (!scans(run, p, slot)) return;
            c.is_there = unit.first + i < unit.end;
            c.x = input.x[slot].value, c.z = input.z[slot], c.dt = input.dt[slot].value;
        });
        float bc_raw = input.mixed.value;
        if (is_first && has_select) scan_select(run, p, input.mixed.value);
        // Warps without a channel have nothing to do with dt and x.
        if (scans(run, p, 0) || (has_second(p) && scans(run, p, 1))) {
            if (has_select) own[0].dt = row_product(run, p.dt_proj, {shared_codes(run), run.shared().row}, own[0].head, early.step);
            bool together = few_taps && p.conv.silu && has_z && !p.time.sigmoid;
            for_slots(p, [&](u32 slot) {
                ScanChannel& c = own[slot];
                const EarlyChannel& asked = early.channels[slot];
                if (together) {
                    c.x = tap_sum(p.conv, asked.x, c.x), c.dt += asked.bias;
                    return;
                }
                c.x = few_taps ? apply_taps(p.conv, asked.x, c.x) : convolved(run, p.conv, 0, c.channel);
                time_step(p.time, c.dt, asked.bias, asked.a_log2, c.dt, c.decay);
                if (has_z && !p.z_last) c.z.value = silu(c.z.value);
            });
            if (together) {
                activate_together(run, p, own);
                for_slots(p, [&](u32 slot) { bound_step(p.time, own[slot].dt, early.channels[slot].a_log2, own[slot].dt, own[slot].decay); });
            }
        }
        if (by_head)
            for_token_elements(run, p, [&](u32 k, u32 of, u32 channel) {
                if (of != place) tokens.u[of][channel] = early.u[k], tokens.keep[of][channel] = early.keep[k];
            });
        for_slots(p, [&](u32 slot) {
            ScanChannel& c = own[slot];
            c.u = c.dt * c.x;
            u32 i = slot_channel(slot, run.half_warp());
            if (by_head && scans(run, p, slot) && run.half_lane() == 0) tokens.u[place][i] = c.u, tokens.keep[place][i] = c.decay;
        });
        if (has_bc) run.shared().row[mixer(run)] = apply_taps(p.conv, early.bc, bc_raw);
        if (is_first && !has_select)
            for (u32 i = mixer(run) + (few_taps ? THREADS : 0); i < 2 * bc; i += THREADS)
                run.shared().row[i] = convolved(run, p.conv, 0, channels + i);
        if (by_head || (is_first && !has_select)) sync_block();
        const float* b = run.shared().row + (has_select ? p.rank : 0) + unit.group * n;
        const float* c_row = b + bc;
        // B of all tokens, for the states that take them in.
        float* held_b = run.shared().row + (has_select ? p.rank : 0) + 2 * bc;
        auto state = [&](const ScanChannel& c) { return run.state(Only(), p.state) + (u64)c.channel * n; };
        if (is_token && token == place) for_elements(run, n, [&](int e, u32 i) { early.row[e] = b[i]; });
        if (is_token && takes_in) for_elements(run, n, [&](int e, u32 i) { held_b[token * n + i] = early.row[e]; });
        for_slots(p, [&](u32 slot) {
            ScanChannel& c = own[slot];
            for_row(run, n, slot, [&](int e, u32 i) {
                float& h = early.row[e];
                if (!by_head) {
                    float a = e < EARLY_DECAYS ? early.decay[e] : run.weights(p.time.a_log2)[(u64)c.head * n + i];
                    h = exp2_core(c.dt * a) * h + c.u * b[i];
                    if (c.is_there) state(c)[i] = h;
                }
                c.sum += c_row[i] * h;
            });
            c.sum = fold16(c.sum);
        });
        if (!takes_in && round + 1 < div_up(units, blocks()) && index + blocks() < units) {
            Unit next = unit_of(p, most, index + blocks());
            input = ask_input(run, p, next, false), ask_unit(run, p, next, early);
        }
        if (by_head) {
            if (is_token && run.half_lane() == 0) tokens.sums[token] = own[0].sum;
            for_slots(p, [&](u32 slot) {
                if (!scans(run, p, slot)) return;
                // As `read_held` has it.
                ScanChannel& c = own[slot];
                u32 i = slot_channel(slot, run.half_warp());
                c.token_u = tokens.u[run.half_lane()][i], c.left = 1.0f;
                float keep[HELD];
#pragma unroll
                for (u32 j = 0; j < HELD; j++) keep[j] = tokens.keep[j][i];
#pragma unroll
                for (int j = HELD - 1; j >= 0; j--) {
                    if (j == (int)run.half_lane()) c.token_left = c.left;
                    if (j <= (int)place) c.left *= keep[j];
                }
            });
            sync_block();
        }
        if (p.z_last) come_gates(run, p, own);
        if (by_head) {
            for_slots(p, [&](u32 slot) {
                if (!scans(run, p, slot)) return;
                ScanChannel& c = own[slot];
                float part = c.token_left * tokens.sums[run.half_lane()] * c.token_u;
                c.sum = c.left * c.sum;
#pragma unroll
                for (u32 j = 0; j < HELD; j++) {
                    float other = of_token(part, j);
                    if (j <= place) c.sum += other;
                }
                if (!takes_in) return;
                for_row(run, n, slot, [&](int e, u32) { early.row[e] *= c.left; });
#pragma unroll 2
                for (u32 j = 0; j < HELD; j++) {
                    float u = of_token(c.token_left * c.token_u, j);
                    for_row(run, n, slot, [&](int e, u32 i) { early.row[e] += u * held_b[j * n + i]; });
                }
                if (c.is_there) for_row(run, n, slot, [&](int e, u32 i) { state(c)[i] = early.row[e]; });
            });
        }
        for_slots(p, [&](u32 slot) {
            const ScanChannel& c = own[slot];
            if (!c.is_there || run.half_lane() > 0) return;
            float y = c.sum + c.d * c.x;
            put(run, p.y, 0, c.channel, has_z ? y * c.z.value : y);
            if (!by_head) return;
            HeldToken row = held_token(run, p, Only(), place);
            row.u[c.channel] = c.u;
            if (c.channel % p.head_dim == 0) row.decay[c.head] = c.decay;
        });
        if (by_head && unit.first % group_channels(p) == 0)
            for (u32 i = run.thread; i < n; i += THREADS) held_token(run, p, Only(), place).b[unit.group * n + i] = b[i];
    }
}
