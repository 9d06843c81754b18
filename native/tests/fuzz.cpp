// fuzz BUNDLE SCRATCH COUNT [SEED]: opens a bundle that was changed anew each time, and goes on with what opens.
//
// Bundles may be damaged, or forged with digests that agree. Of a forged program graphs are built and not run: what it
// would look up where is nobody's to know. All else makes a text. SCRATCH, better in memory, has the bundle as it was
// opened last, if this dies or is stopped by its alarm.
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <random>

#include "../engine/bundle.h"
#include "../engine/include/gemma4.h"
#include "../engine/sha256.h"

using namespace gemma4;
namespace fs = std::filesystem;

namespace {

constexpr unsigned kLongest = 60;  // seconds
std::mt19937_64 luck;
size_t below(size_t most) { return most ? luck() % most : 0; }
template <class List>
const auto& one_of(const List& list) { return list[below(std::size(list))]; }

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}
void write(const fs::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(content.data(), std::streamsize(content.size()));
}
void replace(std::string& text, std::string_view from, const std::string& to) {
  if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
}

void change_number(std::string& text) {
  static const std::string kOdd[] = {"0",    "1",           "-1",    "2",   "16",
                                     "64",   "2147483647",  "1e400", "0.5", "9223372036854775807",
                                     "null", "-2147483648", "[]",    "{}",  "99999999999999999999",
                                     "true", "2147483648",  "\"x\""};
  size_t at = text.find_first_of("0123456789", below(text.size()));
  if (at == std::string::npos) return;
  size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
  text.replace(at, end - at, below(3) ? std::to_string(below(300)) : one_of(kOdd));
}
void change(std::string& text) {
  if (text.empty()) return;
  const size_t at = below(text.size()), length = std::min(text.size() - at, 1 + below(40));
  switch (below(12)) {
    case 0: text[at] = static_cast<char>(luck()); break;
    case 1: text.erase(at, length); break;
    case 2: text.insert(below(text.size()), text.substr(at, length)); break;
    case 3: text.resize(at); break;
    default: change_number(text);
  }
}

// A forged program's graphs, for some ends and lengths.
void build_graphs(const Bundle& bundle, const Program& program) {
  const Variables values{{"constant", 1}, {"end", 128}, {"begin", 40}, {"count", 20}};
  Arrays given;
  for (const auto& each : program.inputs) {
    mx::Shape shape;
    for (const auto& size : each.shape)
      shape.push_back(size.is<int64_t>() ? static_cast<int>(std::clamp<int64_t>(size.as<int64_t>(""), 1, 1 << 16))
                      : size.is<std::nullptr_t>() ? 256 : 20);
    given.push_back(mx::zeros(shape, each.dtype));
  }
  program.run(bundle.fixed.arrays, given, values, true);
}

// Whether it opens.
bool make_text(const fs::path& folder) {
  char error[256];
  const gemma4_options options{0, 0, 0};
  const int32_t ids[] = {2, 3, 4, 5, 6, 7, 8, 9}, drafts[] = {1, 2, 0};
  const gemma4_request request{6, drafts, 3, below(2) ? 0.8f : 0, 8, 0.9f, 0.01f, 1, 7};
  gemma4_model* model = gemma4_open(folder.c_str(), &options, error, sizeof error);
  if (!model) return false;
  gemma4_text* text = gemma4_new_text(model, error, sizeof error);
  gemma4_piece piece{};
  if (!gemma4_begin(text, ids, 8, &request, error, sizeof error))
    while (!gemma4_next(text, &piece, error, sizeof error) && piece.finish == GEMMA4_GOES_ON) {}
  gemma4_free_text(text);
  gemma4_close(model);
  return true;
}

bool build_all_graphs(const fs::path& folder) {
  bool opened = false;
  try {
    const Bundle changed(folder.string());
    opened = true;
    for (const auto* each : {&changed.greedy, &changed.sampled})
      for (const auto& program : *each) build_graphs(changed, program);
    for (const auto& each : changed.reads) build_graphs(changed, each.program);
  } catch (const Error& error) {
    if (std::getenv("FUZZ_TELL")) std::cerr << error.what() << "\n";
  }
  return opened;
}

// A file of weights: its header, of so many bytes, or numbers behind it.
void change_weights(std::string& content, size_t header) {
  std::string part = content.substr(0, std::min(header, content.size()));
  if (below(2)) change(part), content.replace(0, std::min(header, content.size()), part);
  else for (int n = 0; n < 200; ++n) content[below(content.size())] = static_cast<char>(luck());
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return std::cerr << "usage: fuzz BUNDLE SCRATCH COUNT [SEED]\n", 2;
  const fs::path bundle = words[1], scratch = fs::path(words[2]) / "fuzzed.bundle";
  const long times = std::atol(words[3]);
  const uint64_t seed = count > 4 ? std::strtoull(words[4], nullptr, 10) : 1;
  fs::remove_all(scratch);
  fs::copy(bundle, scratch, fs::copy_options::recursive);
  const std::string kManifest = "manifest.json", kConstants = "constants.safetensors", kWeights = "weights.safetensors";
  std::map<std::string, std::string> contents;
  for (const auto& name : {kManifest, kConstants, kWeights}) contents[name] = read(bundle / name);
  std::vector<std::string> programs;
  for (const auto& each : fs::directory_iterator(bundle / "programs"))
    programs.push_back("programs/" + each.path().filename().string());
  std::sort(programs.begin(), programs.end());
  for (const auto& name : programs) contents[name] = read(bundle / name);
  uint16_t header = 0;  // little endian, as the machines are
  contents[kWeights].copy(reinterpret_cast<char*>(&header), sizeof header);
  long opened = 0;
  for (long i = 0; i < times; ++i) {
    luck.seed(seed * 1000003 + static_cast<uint64_t>(i));
    alarm(kLongest);
    const size_t kind = below(20);
    const std::string name = kind < 8 ? kManifest : kind < 17 ? one_of(programs) : kind < 19 ? kConstants : kWeights;
    const std::string& before = contents[name];
    std::string after = before, said = contents[kManifest];
    const bool forged = below(8) > 0;
    for (size_t left = 1 + below(3); left; --left)
      if (name == kWeights) change_weights(after, 8 + header);
      else change(after);
    if (forged && name != kManifest) {
      replace(said, "\"bytes\": " + std::to_string(before.size()), "\"bytes\": " + std::to_string(after.size()));
      replace(said, sha256(before), sha256(after));
      if (name == kWeights && after.size() > 8u + header)
        replace(said, sha256(before.substr(8, header)), sha256(after.substr(8, header)));
    }
    if (name != kManifest) write(scratch / kManifest, said);
    write(scratch / name, after);
    const bool runs = !forged || name == kManifest || name == kWeights;
    opened += runs ? make_text(scratch) : build_all_graphs(scratch);
    write(scratch / name, before);
    if ((i + 1) % 10000 == 0) std::cerr << i + 1 << "\n";
  }
  std::cout << times << " bundles: " << opened << " opened, " << times - opened << " refused\n";
}
