// gemma4 BUNDLE: a line of token ids in, the text's ids out; the next line continues with what it has in common.
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "../engine/include/gemma4.h"

namespace {

gemma4_text* running = nullptr;
char wrong[512];

[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "gemma4: %s\n", why);
  std::exit(1);
}

const char* kUsage =
    "usage: gemma4 BUNDLE [--drafts 3 | 0,3,8 | learned] [--max-tokens N] [--temperature T] [--top-k K] [--top-p P]\n"
    "              [--min-p P] [--draft-temperature T] [--seed N] [--compile 0|1] [--cache-limit BYTES]\n"
    "              [--memory-limit BYTES] [--cancel-after PIECES, of the first prompt] [--exit-after ROUNDS]\n"
    "              [--rounds FILE, of each: int32 drafted, accepted, count, logits, the ids; float32 logits]\n"
    "              < ids, a prompt a line";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<int32_t> numbers(std::string text) {
  for (char& each : text) if (each == ',') each = ' ';
  std::istringstream stream(text);
  std::vector<int32_t> found;
  for (int32_t one; stream >> one;) found.push_back(one);
  if (!stream.eof()) fail("expected numbers");
  return found;
}

void record(std::FILE* file, const gemma4_piece& piece) {
  const int32_t counts[] = {piece.drafted, piece.accepted, piece.count, static_cast<int32_t>(piece.logit_count)};
  std::fwrite(counts, sizeof(int32_t), 4, file);
  std::fwrite(piece.tokens, sizeof(int32_t), static_cast<size_t>(piece.count), file);
  std::fwrite(piece.logits, sizeof(float), piece.logit_count, file);
  std::fflush(file);
}

void tell(int pieces, int kept, int rounds, int drafted, int accepted, double start, double second, double end, int made) {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const gemma4_memory memory = gemma4_memory_in_use();
#ifdef __APPLE__
  const long resident = used.ru_maxrss;
#else
  const long resident = used.ru_maxrss * 1024;
#endif
  std::fprintf(stderr,
               "{\"pieces\": %d, \"kept\": %d, \"rounds\": %d, \"drafted\": %d, \"accepted\": %d, \"tokens\": %d, \"to_second\": %.6f, "
               "\"seconds\": %.6f, \"resident\": %ld, \"active\": %zu, \"cache\": %zu, \"peak\": %zu}\n",
               pieces, kept, rounds, drafted, accepted, made, second - start, end - start, resident, memory.active, memory.cache,
               memory.peak);
}

}  // namespace

int main(int count, char** words) {
  const double begun = now();
  gemma4_options options{-1, 0, 0};
  std::vector<int32_t> drafts;
  gemma4_request request{256, nullptr, 0, 0, 0, 1, 0, 0, 0};
  long exit_after = -1, cancel_after = -1;
  std::FILE* rounds_file = nullptr;
  if (count < 2 || count % 2) fail(kUsage);
  for (int i = 2; i < count; i += 2) {
    const std::string name = words[i], value = words[i + 1];
    const double number = std::atof(value.c_str());
    if (name == "--drafts") drafts = value == "learned" ? std::vector<int32_t>{} : numbers(value);
    else if (name == "--max-tokens") request.max_tokens = static_cast<int32_t>(number);
    else if (name == "--temperature") request.temperature = static_cast<float>(number);
    else if (name == "--top-k") request.top_k = static_cast<int32_t>(number);
    else if (name == "--top-p") request.top_p = static_cast<float>(number);
    else if (name == "--min-p") request.min_p = static_cast<float>(number);
    else if (name == "--draft-temperature") request.draft_temperature = static_cast<float>(number);
    else if (name == "--seed") request.seed = std::strtoull(value.c_str(), nullptr, 10);
    else if (name == "--compile") options.compile = number != 0;
    else if (name == "--cache-limit") options.cache_limit = static_cast<size_t>(number);
    else if (name == "--memory-limit") options.memory_limit = static_cast<size_t>(number);
    else if (name == "--cancel-after") cancel_after = static_cast<long>(number);
    else if (name == "--exit-after") exit_after = static_cast<long>(number);
    else if (name == "--rounds") rounds_file = std::fopen(value.c_str(), "wb");
    else fail(kUsage);
  }
  request.drafts = drafts.data(), request.draft_count = drafts.size();
  gemma4_model* model = gemma4_open(words[1], &options, wrong, sizeof wrong);
  gemma4_text* text = model ? gemma4_new_text(model, wrong, sizeof wrong) : nullptr;
  if (!text) fail(wrong);
  if (rounds_file) gemma4_want_logits(model);
  running = text;
  std::signal(SIGINT, [](int) { gemma4_cancel(running); });
  double start = begun;
  for (std::string line; std::getline(std::cin, line); start = now()) {
    const std::vector<int32_t> ids = numbers(line);
    if (gemma4_begin(text, ids.data(), ids.size(), &request, wrong, sizeof wrong)) fail(wrong);
    int rounds = 0, drafted = 0, accepted = 0, made = 0, pieces = 0, kept = -1;
    double second = 0;
    for (gemma4_piece piece{}; piece.finish == GEMMA4_GOES_ON;) {
      if (gemma4_next(text, &piece, wrong, sizeof wrong)) fail(wrong);
      if (piece.count) ++rounds;
      if (piece.count && rounds_file) record(rounds_file, piece);
      if (kept < 0) kept = piece.kept;
      if (++pieces == cancel_after) gemma4_cancel(text), cancel_after = -1;
      if (made < 2 && made + piece.count >= 2) second = now();
      drafted += piece.drafted, accepted += piece.accepted;
      for (int i = 0; i < piece.count; ++i) std::printf("%s%d", made++ ? " " : "", piece.tokens[i]);
      std::fflush(stdout);
      if (rounds == exit_after) std::exit(0);  // with a round in flight, and nothing closed
    }
    std::printf("\n");
    std::fflush(stdout);
    tell(pieces, kept, rounds, drafted, accepted, start, second, now(), made);
  }
  gemma4_free_text(text);
  gemma4_close(model);
}
