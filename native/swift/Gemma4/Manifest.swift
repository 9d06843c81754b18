import Foundation

/// What a bundle says of its model; docs/bundle.md describes each entry.
public struct Manifest: Decodable, Sendable, Equatable {
  /// The model's name.
  public let name: String
  /// How many tokens there are.
  public let vocabulary: Int
  /// How many tokens a prompt and its text may have together.
  public let context: Int
  /// The most drafts of a round; 0 without an assistant.
  public let drafts: Int
  /// The most that `topK` may be.
  public let mostTopK: Int
  /// How text begins, ends and is drawn.
  public let text: Text
  /// The bundle's small files, by their paths in it.
  public let files: [String: File]
  /// The files that have the weights.
  public let weightFiles: [WeightFile]

  /// How text begins, ends and is drawn, and what stands between messages.
  public struct Text: Decodable, Sendable, Equatable {
    /// The id that texts begin with, if there is one.
    public let bos: Int32?
    /// Ids that end a text.
    public let stops: [Int32]
    /// Ids that are never drawn.
    public let suppressed: [Int32]
    /// How the checkpoint wants text to be drawn; all of it missing: the likeliest tokens.
    public let sampling: Sampling
    /// Ids of the tokens that open and close what is no plain answer.
    public let markers: Markers
    /// What the chat template writes; nil for a model that does not chat.
    public let chat: ChatForm?
  }

  /// How a checkpoint wants text to be drawn.
  public struct Sampling: Decodable, Sendable, Equatable {
    public let temperature: Float?
    public let topK: Int?
    public let topP: Float?
    public let minP: Float?

    enum CodingKeys: String, CodingKey {
      case temperature
      case topK = "top_k"
      case topP = "top_p"
      case minP = "min_p"
    }
  }

  /// Ids of the tokens that switch channels, begin turns or quote; nil for those that a tokenizer does not have.
  public struct Markers: Decodable, Sendable, Equatable {
    public let open: Int32?
    public let close: Int32?
    public let call: Int32?
    public let endOfCall: Int32?
    public let turn: Int32?
    public let quote: Int32?

    enum CodingKeys: String, CodingKey {
      case open, close, call, turn, quote
      case endOfCall = "end_of_call"
    }
  }

  /// A small file of a bundle.
  public struct File: Decodable, Sendable, Equatable {
    public let bytes: Int
    public let sha256: String
  }

  /// A file of weights, which may lie outside the bundle.
  public struct WeightFile: Decodable, Sendable, Equatable {
    /// From the bundle's folder on.
    public let path: String
    public let bytes: Int
    /// Of the header's text, without the eight bytes before it.
    public let headerSHA256: String

    enum CodingKeys: String, CodingKey {
      case path, bytes
      case headerSHA256 = "header_sha256"
    }
  }

  enum CodingKeys: String, CodingKey {
    case name, vocabulary, context, drafts, text, files
    case mostTopK = "most_top_k"
    case weightFiles = "weight_files"
  }
}

extension Manifest {
  static let format = "mlx_gemma4_assist bundle"
  static let version = 1

  private struct Header: Decodable {
    let format: String?
    let version: Int?
  }

  /// Reads the manifest of a bundle.
  ///
  /// - Throws: ``Gemma4Error`` if there is none, or one of another format or version.
  public init(bundle: URL) throws {
    let file = bundle.appendingPathComponent("manifest.json")
    guard let data = try? Data(contentsOf: file) else {
      throw Gemma4Error("cannot read \(file.path)")
    }
    try self.init(json: data, of: bundle)
  }

  init(json: Data, of bundle: URL) throws {
    let decoder = JSONDecoder()
    guard let header = try? decoder.decode(Header.self, from: json), header.format == Self.format else {
      throw Gemma4Error("\(bundle.path) is no bundle of mlx_gemma4_assist")
    }
    guard header.version == Self.version else {
      let found = header.version.map(String.init) ?? "none"
      throw Gemma4Error("\(bundle.path) is of version \(found) of the format, expected \(Self.version): export it anew")
    }
    do {
      self = try decoder.decode(Manifest.self, from: json)
    } catch {
      throw Gemma4Error("the manifest of \(bundle.path) lacks what it must have: \(Self.place(of: error))")
    }
  }

  /// Where in a manifest something was missing or of another kind.
  private static func place(of error: any Error) -> String {
    switch error as? DecodingError {
    case .keyNotFound(let key, let context): path(context.codingPath + [key])
    case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
      path(context.codingPath)
    default: "it is no JSON"
    }
  }

  private static func path(_ keys: [any CodingKey]) -> String {
    keys.map(\.stringValue).joined(separator: ".")
  }
}
