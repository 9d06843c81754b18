import Foundation

/// The files of a bundle, as its manifest lists them.
struct BundleListing: Sendable {
  struct File: Sendable, Equatable {
    var path: String
    var bytes: Int64
    var digest: String
  }

  static let manifest = "manifest.json"
  static let mostManifestBytes: Int64 = 64 << 20
  private static let mostFiles = 10_000
  private static let mostBytes: Int64 = 1 << 48

  /// All but the manifest, small ones first.
  let files: [File]
  var bytes: Int64 { files.reduce(0) { $0 + $1.bytes } }

  /// - Throws: `Gemma4Error` if it is no manifest, if a path leads out of the bundle, or if weights lie elsewhere.
  init(manifest: Data) throws {
    guard let content = try? JSONDecoder().decode(Content.self, from: manifest), content.format == Content.known else {
      throw Gemma4Error("what the server has there is no manifest of a bundle")
    }
    var files = content.files.map { File(path: $0.key, bytes: $0.value.bytes, digest: $0.value.sha256) }
    files += try content.weightFiles.map { said in
      guard let digest = said.sha256 else {
        throw Gemma4Error("the bundle's weights do not lie in its folder: export it with --copy-weights")
      }
      return File(path: said.path, bytes: said.bytes, digest: digest)
    }
    for file in files { try Self.check(file) }
    guard files.count <= Self.mostFiles, Set(files.map { $0.path.lowercased() }).count == files.count else {
      throw Gemma4Error("the bundle's manifest is damaged: it lists a file twice, or too many")
    }
    self.files = files.sorted { ($0.bytes, $0.path) < ($1.bytes, $1.path) }
  }

  /// Refuses what would be written outside of the bundle, or over what the store writes itself.
  private static func check(_ file: File) throws {
    let parts = file.path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    let leadsOut = parts.contains { $0.isEmpty || $0.first == UInt8(ascii: ".") }
    let odd = file.path.utf8.contains { $0 < 0x20 || $0 == UInt8(ascii: "\\") }
    if leadsOut || odd || file.path.lowercased() == manifest {
      throw Gemma4Error("the bundle's manifest is damaged: \(file.path.debugDescription) can be no file of it")
    }
    let isDigest = file.digest.utf8.count == 64 && file.digest.utf8.allSatisfy { "0123456789abcdef".utf8.contains($0) }
    if !isDigest || !(0...mostBytes).contains(file.bytes) {
      throw Gemma4Error("the bundle's manifest is damaged: it has no length and digest of \(file.path)")
    }
  }

  /// What is read of a manifest.
  private struct Content: Decodable {
    struct Small: Decodable {
      var bytes: Int64
      var sha256: String
    }
    struct Weights: Decodable {
      var path: String
      var bytes: Int64
      var sha256: String?
    }

    static let known = "mlx_gemma4_assist bundle"
    var format: String
    var files: [String: Small]
    var weightFiles: [Weights]

    enum CodingKeys: String, CodingKey {
      case format, files
      case weightFiles = "weight_files"
    }
  }
}
