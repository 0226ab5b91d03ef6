// Steps a token model: tokens MODEL.sarit COUNT ID... reads the ids and prints the COUNT likeliest that follow.
#include <sarit.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void must(sarit_status status)
{
    if (status != SARIT_OK)
        throw std::runtime_error(sarit_error_message(status));
}

// Memory for states and scratch is aligned to 64 bytes.
struct Free {
    void operator()(void *memory) const { std::free(memory); }
};
using Lent = std::unique_ptr<void, Free>;

Lent lend(std::size_t bytes)
{
    Lent memory{std::aligned_alloc(64, (bytes + 63) / 64 * 64)};
    if (!memory)
        throw std::bad_alloc();
    return memory;
}

int run(int argc, char **argv)
{
    if (argc < 4) {
        std::cerr << "usage: tokens MODEL.sarit COUNT ID...\n";
        return 2;
    }
    sarit_mapping file{};
    const void *bytes;
    std::size_t len;
    must(sarit_map(&file, argv[1], &bytes, &len));
    sarit_model model{};
    must(sarit_model_init(&model, bytes, len));
    constexpr std::size_t chunk = 16;
    sarit_needs need;
    must(sarit_memory(&model, chunk, &need));
    Lent state_memory = lend(need.state_bytes), scratch_memory = lend(need.scratch_bytes);
    sarit_state state{};
    sarit_scratch scratch{};
    must(sarit_state_init(&state, &model, state_memory.get(), need.state_bytes));
    must(sarit_scratch_init(&scratch, &model, scratch_memory.get(), need.scratch_bytes, chunk));

    std::vector<std::uint32_t> prompt;
    for (int i = 3; i < argc; i++)
        prompt.push_back(static_cast<std::uint32_t>(std::stoul(argv[i])));
    must(sarit_feed(&model, &state, &scratch, prompt.data(), prompt.size() - 1));
    std::uint32_t token = prompt.back();
    for (unsigned long n = std::stoul(argv[2]); n > 0; n--) {
        float *logits;
        must(sarit_step(&model, &state, &scratch, token, &logits));
        must(sarit_argmax(logits, sarit_output_len(&model), &token));
        std::cout << token << '\n';
    }
    must(sarit_unmap(&file));
    return 0;
}

} // namespace

int main(int argc, char **argv)
try {
    return run(argc, argv);
} catch (const std::exception &error) {
    std::cerr << "tokens: " << error.what() << '\n';
    return 1;
}
