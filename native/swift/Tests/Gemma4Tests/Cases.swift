import Foundation
import Testing

@testable import Gemma4

/// What `tools/swift_cases` has written: bundles, and what the package makes of them.
enum Cases {
  /// The embedded pair's texts.
  struct Texts: Decodable {
    struct Text: Decodable {
      let tokens: [Int32]
      let text: String
    }

    let prompt: [Int32]
    let long: [Int32]
    let texts: [String: Text]

    subscript(way: Way) -> Text {
      get throws { try #require(texts[way.rawValue]) }
    }

    /// The first tokens of a text.
    func first(_ count: Int, _ way: Way = .likeliest) throws -> [Int32] {
      Array(try self[way].tokens.prefix(count))
    }
  }

  /// How tokens are drawn.
  enum Way: String, CaseIterable, Sendable {
    case likeliest
    case drawn
    case draftsToo = "drawn, drafts too"

    func options(_ drafts: GenerationOptions.Drafts, tokens: Int) -> GenerationOptions {
      switch self {
      case .likeliest: GenerationOptions(maxTokens: tokens, drafts: drafts)
      case .drawn, .draftsToo:
        GenerationOptions(
          maxTokens: tokens, drafts: drafts, temperature: 0.9, topK: 40, topP: 0.95, minP: 0.02,
          draftTemperature: self == .drawn ? 0 : 1, seed: 7)
      }
    }
  }

  /// A text of another pair.
  struct Other: Decodable {
    let prompt: [Int32]
    let tokens: [Int32]
  }

  struct Conversation: Decodable {
    let system: String
    let questions: [String]
    let answers: [String]
  }

  static var folder: URL {
    get throws {
      let path = try #require(ProcessInfo.processInfo.environment["GEMMA4_CASES"], "tools/test_swift sets GEMMA4_CASES")
      return URL(fileURLWithPath: path, isDirectory: true)
    }
  }

  /// A file of JSON, decoded.
  static func read<Content: Decodable>(_ name: String, as type: Content.Type = Content.self) throws -> Content {
    try JSONDecoder().decode(type, from: Data(contentsOf: folder.appendingPathComponent(name)))
  }

  static var texts: Texts {
    get throws { try read("texts.json") }
  }

  /// The bundle of the embedded pair.
  static var tiny: URL {
    get throws { try folder.appendingPathComponent("tiny.bundle", isDirectory: true) }
  }

  /// The embedded pair. Rounds are not compiled, which takes a CPU seconds.
  static func model(_ options: Gemma4.Options = .init(compile: false)) throws -> Gemma4 {
    try Gemma4(bundle: tiny, options: options)
  }
}

/// All that a stream gives.
func all(_ stream: AsyncThrowingStream<Piece, any Error>) async throws -> [Piece] {
  var pieces: [Piece] = []
  for try await piece in stream { pieces.append(piece) }
  return pieces
}

extension [Piece] {
  var ids: [Int32] { flatMap { $0.tokens.map(\.id) } }
  var text: String { map(\.text).joined() }
}
