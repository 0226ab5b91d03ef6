// The selective scan of one row. Half-warps have rows of states; with a decay per element they have a channel each in all else too, with one per head
// a thread has.
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

// What a thread has asked for before the barrier for a channel: its convolution, weights of dt, and D.
struct EarlyChannel {
    float bias, a_log2, d;
    Taps x;
};

__device__ INLINE void ask_channel(Run run, const Scan& p, u32 channel, EarlyChannel& to) {
    u32 head = channel / p.head_dim;
    if (p.conv.width <= TAPS) load_taps(run, p.conv, Only(), channel, 0, to.x);
    if (!p.time.sigmoid) {
        to.bias = load_float(run.weights(p.time.bias) + head);
        if (!p.time.per_element) to.a_log2 = load_float(run.weights(p.time.a_log2) + head);
    }
    to.d = load_float(run.weights(p.d) + channel);
}

// A thread's number among those that convolve B and C: first come those of the half-warps that have no channel.
__device__ INLINE u32 mixer(Run run) { return (run.thread + THREADS / 2) % THREADS; }

// Whether a thread convolves an element of B or C whose taps come early.
__device__ INLINE bool mixes(Run run, const Scan& p) {
    return p.dt_proj.data == NONE && p.conv.width <= TAPS && mixer(run) < 2 * p.n_groups * p.d_state;
}

__device__ INLINE void ask_mixed(Run run, const Scan& p, Taps& taps) {
    if (mixes(run, p)) load_taps(run, p.conv, Only(), mixer(run), p.heads * p.head_dim, taps);
}

// B and C, convolved, where no product makes them; the thread's element has come.
__device__ INLINE void mix(Run run, const Scan& p, const Taps& taps, float mixed) {
    if (p.dt_proj.data != NONE) return;
    float* row = run.shared().row;
    if (mixes(run, p)) row[mixer(run)] = apply_taps(p.conv, taps, mixed);
    for (u32 i = mixer(run) + (p.conv.width <= TAPS ? THREADS : 0); i < 2 * p.n_groups * p.d_state; i += THREADS)
        row[i] = convolved(run, p.conv, 0, p.heads * p.head_dim + i);
}

// B of a group in shared memory; C is as far behind it as there are numbers in B of all groups. And what is free behind both.
__device__ INLINE float* mixed_b(Run run, const Scan& p, u32 group) { return run.shared().row + (p.dt_proj.data != NONE ? p.rank : 0) + group * p.d_state; }
__device__ INLINE float* behind_mixed(Run run, const Scan& p) { return mixed_b(run, p, 2 * p.n_groups); }

// What the operations before have made for a unit: x, z and raw dt of a thread's channel, and of the first unit its element of B or C, or
// of the row that these come from.
struct ScanInput {
    Posted x, z, dt, mixed;
};

// `each(v, i, asked)` for those numbers, element `i` of `v`, of a thread that has a channel or none. Nobody waits for what is another's: when
// that one has its result it may be written anew. With a decay per head z is waited for later: where its rows of the product come last it does.
template <class Each>
__device__ INLINE void for_input(Run run, const Scan& p, u32 channel, bool has_channel, bool is_first, ScanInput& input, Each each) {
    bool has_select = p.dt_proj.data != NONE;
    if (has_channel) each(p.conv.x, channel, input.x);
    if (has_channel && p.time.per_element && p.z.start != NONE) each(p.z, channel, input.z);
    if (has_channel && !has_select) each(p.dt, channel / p.head_dim, input.dt);
    if (is_first && has_select && run.thread < p.rank + 2 * p.n_groups * p.d_state) each(p.select, run.thread, input.mixed);
    if (is_first && mixes(run, p)) each(p.conv.x, p.heads * p.head_dim + mixer(run), input.mixed);
}

__device__ INLINE ScanInput ask_input(Run run, const Scan& p, u32 channel, bool has_channel, bool is_first) {
    ScanInput input = {};
    for_input(run, p, channel, has_channel, is_first, input, [&](Vector v, u32 i, Posted& asked) { asked = ask(run, v, i); });
    if (has_channel && !p.time.per_element && p.z.start != NONE) input.z = ask(run, p.z, channel);
    return input;
}

// One after another: there are few, and what asks for all of them together takes longer.
__device__ INLINE void come_input(Run run, const Scan& p, u32 channel, bool has_channel, bool is_first, ScanInput& input) {
    for_input(run, p, channel, has_channel, is_first, input, [&](Vector v, u32 i, Posted& asked) { asked.value = come(run, v, i, 0, asked); });
}

// With a decay per element. What a thread has asked for; zeros as in `EarlyProduct`.
struct EarlyElements {
    float row[ELEMENTS_MOST], decay[EARLY_DECAYS];
    EarlyChannel channel;
    Taps bc;
    EarlyRow step;
};

// Asks for what a unit needs and no operation before it makes.
__device__ INLINE void ask_elements(Run run, const Scan& p, const Unit& unit, EarlyElements& early) {
    u32 n = p.d_state, channel = unit.channel(run.half_warp()), head = channel / p.head_dim;
    if (unit.first + run.half_warp() >= unit.end) return;
    const float* row = settled(run.state(Only(), p.state) + (u64)channel * n + run.half_lane());
    const float* a_log2 = settled(run.weights(p.time.a_log2) + (u64)head * n + run.half_lane());
    for_elements(run, n, [&](int e, u32) {
        early.row[e] = load_float(row + 16 * e);
        if (e < EARLY_DECAYS) early.decay[e] = load_float(a_log2 + 16 * e);
    });
    if (p.dt_proj.data != NONE) ask_row(run, p.dt_proj, head, 0, early.step);
    ask_channel(run, p, channel, early.channel);
}

// silu(x), silu(z) and softplus(dt): four threads of a half-warp make the exponentials and the quotients, which all get.
__device__ INLINE void activate_together(Run run, float& x, float& z, float& dt) {
    u32 part = run.half_lane() % 4, first = run.lane() & 16;
    float v = part == 0 ? x : part == 1 ? z : dt;
    bool is_step = part >= 2;
    float t = exp_core(is_step && v < 0.0f ? v : -v);
    float quotient = (is_step ? t : v) / ((is_step ? 2.0f : 1.0f) + t);
    x = __shfl_sync(FULL, quotient, first);
    z = __shfl_sync(FULL, quotient, first + 1);
    dt = softplus_of(dt, __shfl_sync(FULL, quotient, first + 2));
}

template <class Wait>
__device__ INLINE void scan_elements(Run run, u32 passed, const Scan& p, Wait wait) {
    u32 most = scan_channels(p), units = unit_count(p, most), n = p.d_state, first = first_unit(passed);
    bool has_select = p.dt_proj.data != NONE, few_taps = p.conv.width <= TAPS, has_z = p.z.start != NONE, scans = run.warp() * 2 < most;
    auto unit_at = [&](u32 round) { return unit_of(p, most, first + round * blocks()); };
    EarlyElements early = {};
    ScanInput input = {};
    auto has_row = [&](const Unit& unit) { return scans && (group_channels(p) % most == 0 || unit.first + run.half_warp() < unit.end); };
    auto ask_made = [&](const Unit& unit, bool is_first) { input = ask_input(run, p, unit.channel(run.half_warp()), has_row(unit), is_first); };
    if (first < units) ask_elements(run, p, unit_at(0), early), ask_mixed(run, p, early.bc);
    wait();
    if (first < units) ask_made(unit_at(0), true);
    for (u32 round = 0; round < div_up(units, blocks()); round++) {
        if (first + round * blocks() >= units) break;
        Unit unit = unit_at(round);
        u32 channel = unit.channel(run.half_warp()), head = channel / p.head_dim;
        bool is_first = round == 0, is_there = has_row(unit);
        come_input(run, p, channel, is_there, is_first, input);
        float x = input.x.value, z = input.z.value, dt = input.dt.value, decay;
        if (is_first && has_select) scan_select(run, p, input.mixed.value);
        // Warps without a channel have nothing to do with dt and x.
        if (scans) {
            if (has_select) dt = row_product(run, p.dt_proj, {shared_codes(run), run.shared().row}, head, early.step);
            if (few_taps && p.conv.silu && has_z && !p.time.sigmoid) {
                x = tap_sum(p.conv, early.channel.x, x), dt += early.channel.bias;
                activate_together(run, x, z, dt);
                bound_step(p.time, dt, early.channel.a_log2, dt, decay);
            } else {
                x = few_taps ? apply_taps(p.conv, early.channel.x, x) : convolved(run, p.conv, 0, channel);
                time_step(p.time, dt, early.channel.bias, early.channel.a_log2, dt, decay);
                if (has_z) z = silu(z);
            }
        }
        if (is_first) mix(run, p, early.bc, input.mixed.value);
        if (is_first && !has_select) sync_block();
        const float *b = mixed_b(run, p, unit.group), *c = b + p.n_groups * n;
        float u = dt * x, sum = 0.0f, d = early.channel.d;
        for_elements(run, n, [&](int e, u32 i) {
            float a = e < EARLY_DECAYS ? early.decay[e] : run.weights(p.time.a_log2)[(u64)head * n + i];
            float h = exp2_core(dt * a) * early.row[e] + u * b[i];
            if (is_there) run.state(Only(), p.state)[(u64)channel * n + i] = h;
            sum += c[i] * h;
        });
        sum = fold16(sum);
        if (round + 1 < div_up(units, blocks()) && first + (round + 1) * blocks() < units)
            ask_made(unit_at(round + 1), false), ask_elements(run, p, unit_at(round + 1), early);
        if (!is_there || run.half_lane() > 0) continue;
        float y = sum + d * x;
        put(run, p.y, 0, channel, has_z ? y * z : y);
    }
}

// With a decay per head. Whether half-warps have a second row.
__device__ INLINE bool has_second(const Scan& p) { return scan_channels(p) > SCAN_CHANNELS; }

// `each(slot)` for the rows of a half-warp.
template <class Each>
__device__ INLINE void for_slots(const Scan& p, Each each) {
    each(0);
    if (has_second(p)) each(1);
}

// The held token whose row a half-warp has in the first slot, if it has one; and the channel of a unit that it has in a slot, if it is none of a token.
__device__ INLINE bool has_token(Run run, u32 slot) { return slot == 0 && run.half_warp() >= SCAN_CHANNELS; }
__device__ INLINE u32 token_of(Run run) { return run.half_warp() - SCAN_CHANNELS; }
__device__ INLINE u32 slot_channel(Run run, u32 slot) { return slot * SCAN_CHANNELS + run.half_warp(); }

// `each(e, i)` for a thread's elements `i` of the row of `n` in a slot, which are elements `e` of `EarlyHeads::row`.
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

// What a thread has asked for: rows of the state or of the held tokens, elements of those, and its channel. Zeros as in `EarlyProduct`.
struct EarlyHeads {
    float row[ELEMENTS_MOST], u[TOKEN_ELEMENTS], keep[TOKEN_ELEMENTS];
    EarlyChannel channel;
    Taps bc;
};

// Whether a thread has a channel of a unit.
__device__ INLINE bool is_own_channel(Run run, const Scan& p, const Unit& unit) { return run.thread < scan_channels(p) && unit.first + run.thread < unit.end; }

// Asks for what a unit needs and no operation before it makes. What is held in the place of the row itself, and in those behind it, comes
// too and is not used.
__device__ INLINE void ask_heads(Run run, const Scan& p, const Unit& unit, EarlyHeads& early) {
    u32 n = p.d_state;
    for_token_elements(run, p, [&](u32 k, u32 place, u32 own) {
        HeldToken token = held_token(run, p, Only(), place);
        u32 channel = unit.channel(own);
        early.u[k] = load_float(token.u + channel), early.keep[k] = load_float(token.decay + channel / p.head_dim);
    });
    for_slots(p, [&](u32 slot) {
        u32 own = slot_channel(run, slot);
        const float* row = run.state(Only(), p.state) + (u64)unit.channel(own) * n;
        if (has_token(run, slot)) row = held_token(run, p, Only(), token_of(run)).b + unit.group * n;
        else if (unit.first + own >= unit.end) return;
        row = settled(row + run.half_lane());
        for_row(run, n, slot, [&](int e, u32 i) { early.row[e] = load_float(row + (i - run.half_lane())); });
    });
    if (is_own_channel(run, p, unit)) ask_channel(run, p, unit.channel(run.thread), early.channel);
}

// Raw dt of a unit's channels, projected by half-warps, for their threads.
__device__ INLINE float project_dt(Run run, const Scan& p, const Unit& unit) {
    float* raw = run.shared().sums;
    for (u32 i = run.half_warp(); run.warp() * 2 + (i - run.half_warp()) < scan_channels(p); i += HALVES) {
        u32 head = unit.channel(i) / p.head_dim;
        EarlyRow step;
        ask_row(run, p.dt_proj, head, 0, step);
        float dt = row_product(run, p.dt_proj, {shared_codes(run), run.shared().row}, head, step);
        if (run.half_lane() == 0) raw[i] = dt;
    }
    sync_block();
    return raw[run.thread % UNIT_CHANNELS];
}

// Half-warps make `C · h` of channels or `C · B` of a token, and the row becomes a held token: its place is read by nobody meanwhile. The thread of a
// channel makes all else of it.
template <class Wait>
__device__ INLINE void scan_heads(Run run, u32 passed, const Scan& p, Wait wait) {
    u32 most = scan_channels(p), units = unit_count(p, most), n = p.d_state, first = first_unit(passed), own = run.thread;
    bool has_select = p.dt_proj.data != NONE, has_z = p.z.start != NONE;
    auto unit_at = [&](u32 round) { return unit_of(p, most, first + round * blocks()); };
    EarlyHeads early = {};
    ScanInput input = {};
    auto ask_made = [&](const Unit& unit, bool is_first) { input = ask_input(run, p, unit.channel(own), is_own_channel(run, p, unit), is_first); };
    if (first < units) ask_heads(run, p, unit_at(0), early), ask_mixed(run, p, early.bc);
    wait();
    if (first < units) ask_made(unit_at(0), true);
    u32 place = run.position(Only()) % HELD;
    Tokens& tokens = tokens_of(run);
    float* dots = run.shared().sums;  // C · h of the channels
    // With the last of `HELD` tokens a unit's rows are needed to its end; else the next unit's are asked for before.
    bool takes_in = place == HELD - 1;
    for (u32 round = 0; round < div_up(units, blocks()); round++) {
        if (first + round * blocks() >= units) break;
        Unit unit = unit_at(round);
        u32 channel = unit.channel(own);
        bool is_first = round == 0, is_there = is_own_channel(run, p, unit);
        if (!is_first) {
            if (takes_in) ask_made(unit, false), ask_heads(run, p, unit, early);
            // The tokens of the unit before have been read.
            sync_block();
        }
        come_input(run, p, channel, is_there, is_first, input);
        if (is_first && has_select) scan_select(run, p, input.mixed.value);
        float raw_dt = has_select ? project_dt(run, p, unit) : input.dt.value, x = 0.0f, u = 0.0f, decay = 0.0f, d = early.channel.d;
        if (is_there) {
            float dt;
            x = p.conv.width <= TAPS ? apply_taps(p.conv, early.channel.x, input.x.value) : convolved(run, p.conv, 0, channel);
            time_step(p.time, raw_dt, early.channel.bias, early.channel.a_log2, dt, decay);
            tokens.u[place][own] = u = dt * x, tokens.keep[place][own] = decay;
        }
        for_token_elements(run, p, [&](u32 k, u32 of, u32 i) {
            if (of != place) tokens.u[of][i] = early.u[k], tokens.keep[of][i] = early.keep[k];
        });
        if (is_first) mix(run, p, early.bc, input.mixed.value);
        sync_block();
        const float *b = mixed_b(run, p, unit.group), *c = b + p.n_groups * n;
        float* held_b = behind_mixed(run, p);  // B of all tokens, for the states that take them in
        for_slots(p, [&](u32 slot) {
            bool is_token = has_token(run, slot);
            if (is_token && token_of(run) == place) for_elements(run, n, [&](int e, u32 i) { early.row[e] = b[i]; });
            if (is_token && takes_in) for_elements(run, n, [&](int e, u32 i) { held_b[token_of(run) * n + i] = early.row[e]; });
            float sum = 0.0f;
            for_row(run, n, slot, [&](int e, u32 i) { sum += c[i] * early.row[e]; });
            sum = fold16(sum);
            if (run.half_lane() == 0) (is_token ? tokens.sums[token_of(run)] : dots[slot_channel(run, slot)]) = sum;
        });
        // As `read_held` has it: what is left of a token's part of the state, and `left` of that itself.
        float lefts[HELD], left = 1.0f, gate = 1.0f;
        if (is_there) {
#pragma unroll
            for (int j = HELD - 1; j >= 0; j--) {
                lefts[j] = left;
                if (j <= (int)place) left *= tokens.keep[j][own];
            }
            if (has_z) gate = silu(come(run, p.z, channel, 0, input.z));
        }
        if (!takes_in && round + 1 < div_up(units, blocks()) && first + (round + 1) * blocks() < units)
            ask_made(unit_at(round + 1), false), ask_heads(run, p, unit_at(round + 1), early);
        sync_block();
        if (is_there) {
            float sum = left * dots[own];
#pragma unroll
            for (u32 j = 0; j < HELD; j++) {
                float part = lefts[j] * tokens.sums[j] * tokens.u[j][own];
                if (j <= place) sum += part;
            }
            float y = sum + d * x;
            put(run, p.y, 0, channel, has_z ? y * gate : y);
            HeldToken row = held_token(run, p, Only(), place);
            row.u[channel] = u;
            if (channel % p.head_dim == 0) row.decay[channel / p.head_dim] = decay;
        }
        if (takes_in) {
            if (is_there) {
                dots[own] = left;
#pragma unroll
                for (u32 j = 0; j < HELD; j++) tokens.u[j][own] *= lefts[j];
            }
            sync_block();
            for_slots(p, [&](u32 slot) {
                u32 i_own = slot_channel(run, slot);
                if (has_token(run, slot) || i_own >= most || unit.first + i_own >= unit.end) return;
                for_row(run, n, slot, [&](int e, u32) { early.row[e] *= dots[i_own]; });
#pragma unroll 2
                for (u32 j = 0; j < HELD; j++) {
                    float of_token = tokens.u[j][i_own];
                    for_row(run, n, slot, [&](int e, u32 i) { early.row[e] += of_token * held_b[j * n + i]; });
                }
                float* state = run.state(Only(), p.state) + (u64)unit.channel(i_own) * n;
                for_row(run, n, slot, [&](int e, u32 i) { state[i] = early.row[e]; });
            });
        }
        if (unit.first % group_channels(p) == 0)
            for (u32 i = run.thread; i < n; i += THREADS) held_token(run, p, Only(), place).b[unit.group * n + i] = b[i];
    }
}
