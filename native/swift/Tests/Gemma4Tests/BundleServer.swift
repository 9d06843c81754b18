import Foundation
import Testing

@testable import Gemma4

#if canImport(FoundationNetworking)
  import FoundationNetworking
#endif

/// The server of `tests/support/bundle_server.py`: the one whose address GEMMA4_BUNDLE_SERVER is, or one that lives as long
/// as the tests.
enum BundleServer {
  /// Nil without an address, and without a `python3`.
  static let address: URL? = {
    if let given = ProcessInfo.processInfo.environment["GEMMA4_BUNDLE_SERVER"], !given.isEmpty { return URL(string: given) }
    let script = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../../tests/support/bundle_server.py")
    return try? start(script.standardizedFileURL)
  }()

  /// It ends once its standard input does, which this process holds.
  private static func start(_ script: URL) throws -> URL? {
    let (process, input, output) = (Process(), Pipe(), Pipe())
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["python3", script.path]
    (process.standardInput, process.standardOutput) = (input, output)
    _ = Unmanaged.passRetained(input)
    try process.run()
    let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
    return line.hasPrefix("http") ? URL(string: line.trimmingCharacters(in: .whitespacesAndNewlines)) : nil
  }

  static func put(_ data: Data, at path: String) async throws {
    var request = URLRequest(url: try #require(address).appendingPathComponent(path))
    request.httpMethod = "PUT"
    _ = try await URLSession.shared.upload(for: request, from: data)
  }

  static func get(_ path: String) async throws -> Data {
    try await URLSession.shared.data(from: try #require(address).appendingPathComponent(path)).0
  }
}

/// A bundle of random bytes on the server.
struct ServedBundle {
  struct Request: Equatable {
    var file: String
    var range: String?
    var status: Int
  }

  let name: String
  var files: [String: Data]
  /// What the manifest says otherwise than the files are.
  var changes: @Sendable (inout [String: Any]) -> Void = { _ in }

  static let weights = "weights.safetensors"
  var weights: Data { files[Self.weights]! }

  init(_ name: String, weights: Int = 40_000) {
    self.name = "\(name)-\(UUID().uuidString.prefix(8)).bundle"
    files = [
      "programs/greedy-0.json": Self.bytes(200), "constants.safetensors": Self.bytes(7_000),
      "tokenizer.json": Self.bytes(3_000), Self.weights: Self.bytes(weights),
    ]
  }

  static func bytes(_ count: Int) -> Data { Data((0..<count).map { _ in UInt8.random(in: 0...255) }) }

  var manifest: Data {
    get throws {
      func said(_ data: Data) -> [String: Any] { ["bytes": data.count, "sha256": SHA256Digest.hex(of: data)] }
      let small = files.filter { $0.key != Self.weights }.mapValues(said)
      let weights = said(weights).merging(["path": Self.weights, "header_sha256": ""]) { old, _ in old }
      var content: [String: Any] = [
        "format": "mlx_gemma4_assist bundle", "version": 1, "files": small, "weight_files": [weights],
      ]
      changes(&content)
      return try JSONSerialization.data(withJSONObject: content)
    }
  }

  func put() async throws {
    for (path, data) in files { try await BundleServer.put(data, at: "\(name)/\(path)") }
    try await BundleServer.put(manifest, at: "\(name)/manifest.json")
  }

  func url(_ behaviour: String = "plain") throws -> URL {
    try #require(BundleServer.address).appendingPathComponent("\(behaviour)/\(name)")
  }

  /// All that was asked for so far, but manifests.
  func requests() async throws -> [Request] {
    let lines = try JSONSerialization.jsonObject(with: await BundleServer.get("requests/\(name)")) as? [[Any]]
    return try #require(lines).map {
      Request(file: $0[1] as? String ?? "", range: $0[2] as? String, status: $0[3] as? Int ?? 0)
    }.filter { $0.file != "manifest.json" }
  }
}

/// A folder that is removed in the end.
final class TemporaryFolder: Sendable {
  let url = FileManager.default.temporaryDirectory.appendingPathComponent("gemma4-\(UUID().uuidString)", isDirectory: true)

  init() throws { try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true) }

  deinit { try? FileManager.default.removeItem(at: url) }
}
