// Opening a bundle: everything that it names is looked at before anything is run, and no number of a file is trusted.
#include "bundle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <unordered_map>

namespace gemma4 {

namespace fs = std::filesystem;

std::string sha256(std::string_view text) {  // FIPS 180-4
  static constexpr auto primes = [] {
    std::array<uint32_t, 64> found{};
    for (uint32_t n = 2, count = 0; count < 64; ++n) {
      bool prime = true;
      for (uint32_t d = 2; d * d <= n; ++d) prime = prime && n % d;
      if (prime) found[count++] = n;
    }
    return found;
  }();
  static const auto fraction = [](long double root) {
    return static_cast<uint32_t>(static_cast<uint64_t>(root * 4294967296.0L));  // its first 32 bits
  };
  static const auto rounds = [] {
    std::array<uint32_t, 64> found{};
    for (int i = 0; i < 64; ++i) found[i] = fraction(std::cbrt(static_cast<long double>(primes[i])));
    return found;
  }();
  std::array<uint32_t, 8> state{};
  for (int i = 0; i < 8; ++i) state[i] = fraction(std::sqrt(static_cast<long double>(primes[i])));
  std::string padded(text);
  padded += '\x80';
  padded.resize((padded.size() + 8 + 63) / 64 * 64, '\0');
  for (int i = 0; i < 8; ++i) padded[padded.size() - 1 - i] = static_cast<char>(uint64_t{text.size()} * 8 >> (8 * i));
  for (size_t begin = 0; begin < padded.size(); begin += 64) {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 64; ++i) w[i / 4] = w[i / 4] << 8 | static_cast<uint8_t>(padded[begin + i]);
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const uint32_t one = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + rounds[i] + w[i];
      const uint32_t two = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    const std::array<uint32_t, 8> more{a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += more[i];
  }
  std::string digits;
  for (const uint32_t each : state)
    for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[each >> shift & 15];
  return digits;
}

namespace {

constexpr uint64_t kMostBytes = 100 << 20;  // of a small file, and of a safetensors file's header

uint64_t size_of(const fs::path& path) {
  std::error_code error;
  const uint64_t size = fs::is_regular_file(path, error) ? fs::file_size(path, error) : 0;
  if (error || !fs::is_regular_file(path, error)) throw Error("cannot read " + path.string());
  return size;
}

std::string bytes_of(const fs::path& path, uint64_t begin, uint64_t count) {
  std::string content(count, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.seekg(static_cast<std::streamoff>(begin)) || !file.read(content.data(), static_cast<std::streamsize>(count)))
    throw Error("cannot read " + path.string());
  return content;
}

// Adds the file's name to whatever is wrong with it.
template <class Action>
auto naming(const fs::path& path, Action action) {
  try {
    return action();
  } catch (const Error& error) {
    throw Error(path.string() + " is damaged: " + error.what());
  }
}

Json json_of(const fs::path& path, std::string_view text) { return naming(path, [&] { return JsonReader::read(text); }); }

// Tensors of a safetensors file, once its header has been found to be true; they are read when they are evaluated.
using Tensors = std::unordered_map<std::string, mx::array>;
Tensors tensors_of(const fs::path& path, uint64_t size, std::string_view digest) {
  static const std::pair<std::string_view, mx::Dtype> known[] = {
      {"F32", mx::float32}, {"F16", mx::float16}, {"BF16", mx::bfloat16}, {"I64", mx::int64}, {"I32", mx::int32},
      {"U32", mx::uint32}, {"U16", mx::uint16}, {"U8", mx::uint8}, {"BOOL", mx::bool_}};
  const std::string other = path.string() + " is not the file of weights that the bundle was made for";
  if (size_of(path) != size || size < 8) throw Error(other);
  uint64_t length = 0;
  const std::string first = bytes_of(path, 0, 8);
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(first[i]);
  if (length > std::min(size - 8, kMostBytes)) throw Error(path.string() + " is no safetensors file, or cut off");
  const std::string text = bytes_of(path, 8, length);
  if (!digest.empty() && sha256(text) != digest) throw Error(other);
  const Json header = json_of(path, text);
  naming(path, [&] {
    for (const auto& [name, entry] : header.as<Json::Object>("its header")) {
      if (name == "__metadata__") continue;
      const int64_t room = static_cast<int64_t>(size - 8 - length);
      const auto& offsets = entry.at<Json::List>("data_offsets");
      if (offsets.size() != 2) throw Error(name + " has no two offsets");
      const int64_t end = offsets[1].whole("an offset", 0, room), begin = offsets[0].whole("an offset", 0, end);
      const auto type = std::find_if(std::begin(known), std::end(known), [&](const auto& each) {
        return each.first == entry.at<std::string>("dtype");
      });
      if (type == std::end(known)) throw Error(name + " has a type of numbers that is not known here");
      int64_t bytes = mx::size_of(type->second);
      for (const auto& each : entry.at<Json::List>("shape"))
        if (const int64_t size = each.whole("a size"); size && bytes > room / size) throw Error(name + " is not all there");
        else bytes *= size;
      if (bytes != end - begin) throw Error(name + " is not all there");
    }
  });
  try {
    return mx::load_safetensors(path.string()).first;
  } catch (const std::exception& error) {
    throw Error("MLX cannot read " + path.string());
  }
}

}  // namespace

namespace {

std::vector<int> integers(const Json& list, int64_t most) {
  std::vector<int> found;
  for (const auto& each : list.as<Json::List>("a list")) found.push_back(static_cast<int>(each.whole("an id", 0, most)));
  return found;
}

}  // namespace

Bundle::Bundle(const std::string& folder) {
  const fs::path root(folder), path = root / "manifest.json";
  manifest = bytes_of(path, 0, std::min(size_of(path), kMostBytes));
  const Json content = json_of(path, manifest);
  naming(path, [&] { read(content, root); });
}

void Bundle::read(const Json& content, const fs::path& root) {
  if (content.at<std::string>("format") != "mlx_gemma4_assist bundle") throw Error("it is no bundle of mlx_gemma4_assist");
  content.at("version").whole("the format's version (export it anew)", 1, 1);
  const auto number = [](const Json& from, std::string_view name, int64_t least, int64_t most) {
    return static_cast<int>(from.at(name).whole(name, least, most));
  };
  constexpr int kMost = 1 << 24;
  vocabulary = number(content, "vocabulary", 1, kMost), context = number(content, "context", 1, kMost);
  drafts = number(content, "drafts", 0, 32), most_top_k = number(content, "most_top_k", 0, vocabulary);
  hidden = number(content.at("hidden"), "size", 1, kMost);
  hidden_dtype = dtype_of(content.at("hidden").at<std::string>("dtype"));
  const Json& layout = content.at("layout");
  dtype = dtype_of(layout.at<std::string>("dtype"));
  for (auto [into, name] : {std::pair(&window, "window"), {&slack, "slack"}, {&ring, "ring"}, {&growth, "growth"},
                            {&end_step, "end_step"}, {&least_end, "least_end"}, {&bucket, "bucket"},
                            {&bucket_growth_share, "bucket_growth_share"}})
    *into = number(layout, name, 1, kMost);
  if (ring != window + slack || slack < 2 * (drafts + 1) || bucket % end_step || least_end % end_step)
    throw Error("its layout does not fit together");
  for (const auto& each : layout.at<Json::List>("layers"))
    layers.push_back({each.at<std::string>("kind") == "full_attention", number(each, "heads", 1, 1 << 12),
                      number(each, "width", 1, 1 << 16)});
  stops = integers(content.at("text").at("stops"), vocabulary - 1);

  const auto& files = content.at<Json::Object>("files");
  const auto said = [&](const std::string& name) -> std::pair<uint64_t, std::string> {
    const auto found = files.find(name);
    if (found == files.end()) throw Error(name + " is no file of the bundle");
    return {found->second.at("bytes").whole("bytes"), found->second.at<std::string>("sha256")};
  };
  for (const auto& [name, _] : files) {
    const fs::path inside(name);
    if (inside.is_absolute() || std::ranges::count(inside, "..")) throw Error(name + " is not in the bundle");
    if (size_of(root / inside) != said(name).first) throw Error(name + " is not of the length that it was written with");
  }
  std::vector<Tensors> tensors;
  for (const auto& each : content.at<Json::List>("weight_files"))
    tensors.push_back(tensors_of(root / each.at<std::string>("path"), each.at("bytes").whole("bytes", 0, int64_t{1} << 50),
                                 each.at<std::string>("header_sha256")));
  for (const auto& each : content.at<Json::List>("weights")) {
    const auto& parts = each.as<Json::List>("a weight");
    if (parts.size() != 5) throw Error("a weight has not five parts");
    Tensors& there = tensors.at(parts[1].whole("a weight's file", 0, static_cast<int64_t>(tensors.size()) - 1));
    const auto found = there.find(parts[2].as<std::string>("a weight's name"));
    const auto shape = integers(parts[4], INT32_MAX);
    if (found == there.end() || !found->second.size() || found->second.dtype() != dtype_of(parts[3].as<std::string>("a type")) ||
        !std::ranges::equal(found->second.shape(), shape))
      throw Error("no file has " + parts[2].as<std::string>("") + " as the bundle needs it");
    fixed.push_back(found->second);
  }
  const size_t weights = fixed.size(), constants = content.at("constants").whole("constants", 0, kMost);
  const auto [size, digest] = said("constants.safetensors");
  const fs::path file = root / "constants.safetensors";
  if (size > kMostBytes || sha256(bytes_of(file, 0, size)) != digest) throw Error(file.string() + " is another file");
  Tensors lying = tensors_of(file, size, "");
  for (size_t i = 0; i < constants; ++i)
    if (const auto found = lying.find(std::to_string(i)); found != lying.end()) fixed.push_back(found->second);
    else throw Error("there is no constant " + std::to_string(i));

  const auto program = [&](const Json& name) {
    const auto [length, sum] = said(name.as<std::string>("a program's file"));
    const fs::path where = root / name.as<std::string>("");
    const std::string text = length > kMostBytes ? "" : bytes_of(where, 0, length);
    if (sha256(text) != sum) throw Error(where.string() + " is not the file that the bundle was written with");
    return naming(where, [&] { return Program(JsonReader::read(text), weights, constants); });
  };
  const Json& programs = content.at("programs");
  for (auto [into, way] : {std::pair(&greedy, "greedy"), {&sampled, "sampled"}}) {
    for (const auto& each : programs.at<Json::List>(way)) into->push_back(program(each));
    if (into->size() != static_cast<size_t>(drafts) + 1) throw Error("there is not a program for each number of drafts");
  }
  for (const auto& each : programs.at<Json::List>("read"))
    reads.push_back({number(each, "least", 1, kMost), number(each, "most", 1, kMost), program(each.at("file"))});
  settle(weights);
}

// Reads what is needed of weights and constants, and makes what depends on nothing else.
void Bundle::settle(size_t weights) {
  try {
    for (size_t i = 0; i < weights; ++i)  // ids that rows are looked up by
      if (const auto& each = fixed[i]; each.size() && (each.dtype() == mx::int32 || each.dtype() == mx::int64))
        if (mx::min(mx::astype(each, mx::int64)).item<int64_t>() < 0 ||
            mx::max(mx::astype(each, mx::int64)).item<int64_t>() >= vocabulary)
          throw Error("a weight has ids beyond the vocabulary");
    std::vector<bool> needed(fixed.size());
    for (auto* programs : {&greedy, &sampled}) for (auto& each : *programs) each.fold(fixed, folded, needed);
    for (auto& each : reads) each.program.fold(fixed, folded, needed);
    for (size_t i = 0; i < fixed.size(); ++i)
      if (!needed[i]) fixed[i] = mx::array(0);  // what was made of it stands for it
    for (auto* arrays : {&folded.arrays, &fixed})
      for (auto& each : *arrays) mx::eval(each);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(std::string("its weights cannot be read: ") + error.what());
  }
}

}  // namespace gemma4
