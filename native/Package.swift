// swift-tools-version: 6.0
// Gemma 4 with its assistant: a C++ engine over MLX's library, and Swift over its C header.
//
// MLX is the folder MLX_ROOT, with include/ and lib/, such as the one of Python's mlx; without it, what pkg-config knows as
// mlx. With MLX_ROOT the package has unsafe flags, which SwiftPM allows in packages that are opened or named by a path.
import PackageDescription

let mlx = Context.environment["MLX_ROOT"]

var headers: [CXXSetting] = []
var library: [LinkerSetting] = [.linkedLibrary("mlx")]
var engine: [Target.Dependency] = ["MLX"]
if let mlx {
  headers = [.unsafeFlags(["-isystem", "\(mlx)/include"])]
  library.append(.unsafeFlags(["-L\(mlx)/lib", "-Xlinker", "-rpath", "-Xlinker", "\(mlx)/lib"]))
  engine = []
}

var targets: [Target] = [
  .target(
    name: "CGemma4", dependencies: engine, path: "engine", publicHeadersPath: "include", cxxSettings: headers,
    linkerSettings: library),
  .target(name: "Gemma4", dependencies: ["CGemma4"], path: "swift/Gemma4"),
  .executableTarget(name: "gemma4-chat", dependencies: ["Gemma4"], path: "swift/gemma4-chat"),
  .testTarget(name: "Gemma4Tests", dependencies: ["Gemma4"], path: "swift/Tests/Gemma4Tests"),
  .testTarget(name: "ExampleTests", dependencies: ["Gemma4"], path: "swift/Tests/ExampleTests"),
  .testTarget(name: "ChatTests", dependencies: ["gemma4-chat"], path: "swift/Tests/ChatTests"),
]
var adapter: [Target.Dependency] = ["Gemma4"]
if mlx == nil {
  targets.append(.systemLibrary(name: "MLX", path: "swift/MLX", pkgConfig: "mlx"))
}
#if os(Linux)
// What Apple's framework declares, as far as the adapter needs it, so that it is type-checked.
targets += [
  .target(name: "FoundationModels", path: "swift/FoundationModels"),
  .testTarget(
    name: "Gemma4FoundationModelsTests", dependencies: ["Gemma4FoundationModels", "FoundationModels"],
    path: "swift/Tests/Gemma4FoundationModelsTests"),
]
adapter.append("FoundationModels")
#endif
targets.append(.target(name: "Gemma4FoundationModels", dependencies: adapter, path: "swift/Gemma4FoundationModels"))

let package = Package(
  name: "Gemma4",
  platforms: [.macOS(.v14), .iOS(.v17)],
  products: [
    .library(name: "Gemma4", targets: ["Gemma4"]),
    .library(name: "Gemma4FoundationModels", targets: ["Gemma4FoundationModels"]),
    .executable(name: "gemma4-chat", targets: ["gemma4-chat"]),
  ],
  targets: targets,
  cxxLanguageStandard: .cxx20
)
