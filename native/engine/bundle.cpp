// Opening a bundle: everything that it names is looked at before anything is run, and no number of a file is trusted.
#include "bundle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <unordered_map>

#include "sha256.h"

namespace gemma4 {

namespace fs = std::filesystem;

namespace {

constexpr int kMost = 1 << 24;              // of a number that the manifest has
constexpr int64_t kMostBytes = 100 << 20;   // of a small file, and of a safetensors file's header
constexpr int64_t kLargest = int64_t{1} << 50;  // bytes of a file

int64_t size_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw Error("cannot read " + path.string());
  return static_cast<int64_t>(fs::file_size(path));
}

std::string bytes_of(const fs::path& path, int64_t begin, int64_t count) {
  if (count > kMostBytes) throw Error(path.string() + " is too large");
  std::string content(count, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.seekg(begin) || !file.read(content.data(), count)) throw Error("cannot read " + path.string());
  return content;
}

// Adds the file's name to whatever is wrong with it.
template <class Action>
auto naming(const fs::path& path, Action action) {
  try {
    return action();
  } catch (const std::exception& error) {
    throw Error(path.string() + " is damaged: " + error.what());
  }
}

int number(const Json& from, std::string_view name, int least, int most = kMost) {
  return static_cast<int>(from.at(name).whole(name, least, most));
}

std::vector<int> numbers(const Json& list, int64_t most) {
  std::vector<int> found;
  for (const auto& each : list.as<Json::List>("a list"))
    found.push_back(static_cast<int>(each.whole("a number", 0, most)));
  return found;
}

// A small file, which has to be the one that the manifest knows.
std::string file_of(const fs::path& root, const std::string& name, const Json& known) {
  std::string content = bytes_of(root / name, 0, known.at(name).at("bytes").whole("bytes"));
  if (sha256(content) != known.at(name).at<std::string>("sha256"))
    throw Error((root / name).string() + " is not the file that the bundle was written with");
  return content;
}

// Tensors of a safetensors file. MLX checks its header, and that all of them are there; they are read when evaluated.
using Tensors = std::unordered_map<std::string, mx::array>;
Tensors tensors_of(const fs::path& path) {
  Tensors tensors = naming(path, [&] { return mx::load_safetensors(path.string()).first; });
  for (const auto& [name, array] : tensors)
    if (std::ranges::any_of(array.shape(), [](int size) { return size < 1; })) throw Error(name + " has an odd shape");
  return tensors;
}

// A file of weights, which has to be of the length, and have the header, that the manifest knows.
Tensors weights_of(const fs::path& root, const Json& known) {
  static_assert(std::endian::native == std::endian::little);
  const fs::path path = root / known.at<std::string>("path");
  const int64_t size = known.at("bytes").whole("bytes", 8, kLargest);
  uint64_t length = 0;
  if (size_of(path) == size) std::memcpy(&length, bytes_of(path, 0, 8).data(), 8);
  if (!length || length > static_cast<uint64_t>(size - 8) ||
      sha256(bytes_of(path, 8, static_cast<int64_t>(length))) != known.at<std::string>("header_sha256"))
    throw Error(path.string() + " is not the file of weights that the bundle was made for");
  return tensors_of(path);
}

}  // namespace

Bundle::Bundle(const std::string& folder) {
  const fs::path root(folder), path = root / "manifest.json";
  manifest = bytes_of(path, 0, size_of(path));
  naming(path, [&] { read(JsonReader::read(manifest), root); });
}

void Bundle::read(const Json& content, const fs::path& root) {
  if (content.at<std::string>("format") != "mlx_gemma4_assist bundle")
    throw Error("it is no bundle of mlx_gemma4_assist");
  content.at("version").whole("the format's version (export it anew)", 1, 1);
  read_layout(content);
  const Json& files = content.at("files");
  for (const auto& [name, said] : files.as<Json::Object>("files")) {
    const fs::path inside(name);
    if (inside.is_absolute() || std::ranges::count(inside, "..")) throw Error(name + " is not in the bundle");
    if (size_of(root / inside) != said.at("bytes").whole("bytes", 0, kLargest))
      throw Error(name + " is not of the length that it was written with");
  }
  read_weights(content, root);
  const size_t weights = fixed.arrays.size(), constants = number(content, "constants", 0);
  file_of(root, "constants.safetensors", files);
  const Tensors lying = tensors_of(root / "constants.safetensors");
  for (size_t i = 0; i < constants; ++i)
    if (const auto found = lying.find(std::to_string(i)); found != lying.end()) fixed.arrays.push_back(found->second);
    else throw Error("there is no constant " + std::to_string(i));

  const auto program = [&](const Json& file) {
    const std::string& name = file.as<std::string>("a program's file");
    const std::string text = file_of(root, name, files);
    return naming(root / name, [&] { return Program(JsonReader::read(text), weights, constants, fixed); });
  };
  const Json& programs = content.at("programs");
  for (auto [into, way] : {std::pair(&greedy, "greedy"), {&sampled, "sampled"}}) {
    for (const auto& each : programs.at<Json::List>(way)) into->push_back(program(each));
    if (into->size() != size_t(drafts) + 1) throw Error("there is not a program for each number of drafts");
  }
  for (const auto& each : programs.at<Json::List>("read"))
    reads.push_back({number(each, "most", 1), program(each.at("file"))});
  if (reads.empty()) throw Error("there is no program that reads");
  fixed.evaluate();
}

void Bundle::read_layout(const Json& content) {
  vocabulary = number(content, "vocabulary", 1), context = number(content, "context", 1);
  drafts = number(content, "drafts", 0, 32), most_top_k = number(content, "most_top_k", 0, vocabulary);
  const Json &state = content.at("hidden"), &layout = content.at("layout");
  hidden = number(state, "size", 1), hidden_dtype = dtype_of(state.at<std::string>("dtype"));
  dtype = dtype_of(layout.at<std::string>("dtype"));
  for (auto [into, name] : {std::pair(&window, "window"), {&slack, "slack"}, {&ring, "ring"}, {&growth, "growth"},
                            {&end_step, "end_step"}, {&least_end, "least_end"}, {&bucket, "bucket"},
                            {&bucket_growth_share, "bucket_growth_share"}})
    *into = number(layout, name, 1);
  if (ring != window + slack || slack < 2 * (drafts + 1) || bucket % end_step || least_end % end_step)
    throw Error("its layout does not fit together");
  for (const auto& each : layout.at<Json::List>("layers"))
    layers.push_back({each.at<std::string>("kind") == "full_attention", number(each, "heads", 1, 1 << 12),
                      number(each, "width", 1, 1 << 16)});
  stops = numbers(content.at("text").at("stops"), vocabulary - 1);
}

void Bundle::read_weights(const Json& content, const fs::path& root) {
  std::vector<Tensors> files;
  for (const auto& each : content.at<Json::List>("weight_files")) files.push_back(weights_of(root, each));
  for (const auto& each : content.at<Json::List>("weights")) {
    const Tensors& there = files[each.at(1).whole("a weight's file", 0, static_cast<int64_t>(files.size()) - 1)];
    const auto& name = each.at(2).as<std::string>("a weight's name");
    const auto found = there.find(name);
    if (found == there.end() || found->second.dtype() != dtype_of(each.at(3).as<std::string>("a type")) ||
        !std::ranges::equal(found->second.shape(), numbers(each.at(4), INT32_MAX)))
      throw Error("no file has " + name + " as the bundle needs it");
    const mx::array& weight = found->second;
    if (weight.dtype() == mx::int32 || weight.dtype() == mx::int64) {  // ids that rows are looked up by
      const auto from_0 = mx::greater_equal(weight, mx::array(0)), below = mx::less(weight, mx::array(vocabulary));
      if (!mx::all(mx::logical_and(from_0, below)).item<bool>()) throw Error("a weight has ids beyond the vocabulary");
    }
    fixed.arrays.push_back(weight);
  }
}

size_t Fixed::transposed(size_t number, const std::vector<int>& axes) {
  const auto [found, is_new] = turned.try_emplace({number, axes}, arrays.size());
  if (is_new) {
    const auto view = mx::transpose(arrays[number], axes);  // a CPU's products are faster by rows
    arrays.push_back(mx::default_device() == mx::Device::cpu ? mx::contiguous(view) : view);
  }
  return found->second;
}

void Fixed::evaluate() {
  for (size_t i = 0; i < arrays.size(); ++i)  // what is transposed comes last
    if (taken.contains(i)) mx::eval(arrays[i]);
    else arrays[i] = mx::array(0);
}

}  // namespace gemma4
