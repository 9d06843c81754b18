// swift-tools-version: 6.0
// A chat in a window: MLX_ROOT=... swift run. Its views were not compiled on Apple's systems.
import PackageDescription

let package = Package(
  name: "GemmaChat",
  platforms: [.macOS(.v14)],
  dependencies: [.package(path: "../../../native")],
  targets: [
    .executableTarget(
      name: "GemmaChat", dependencies: [.product(name: "Gemma4", package: "native")], path: "Sources")
  ]
)
