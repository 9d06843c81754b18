// Written by Apple's documentation of macOS 27 and type-checked against a stand-in; it was not compiled on Apple's systems.
#if os(Linux) || canImport(FoundationModels, _version: 2)  // version 1 has no models but Apple's
  import FoundationModels
  import Gemma4

  /// Gemma 4 for sessions of Foundation Models:
  /// `LanguageModelSession(model: Gemma4LanguageModel(try Gemma4(bundle: folder)))`.
  ///
  /// Plain text, and thoughts if a session asks for a level of reasoning and the model has such. Tools, guided generation and
  /// pictures are not among its capabilities: a session refuses these itself. All sessions that are given one value share one
  /// model in memory; each keeps its own keys, so that a turn reads only what is new of its transcript.
  @available(macOS 27.0, iOS 27.0, visionOS 27.0, *)
  public struct Gemma4LanguageModel: LanguageModel {
    public typealias Executor = Gemma4Executor

    let gemma: Gemma4
    let drafts: TextOptions.Drafts

    /// - Parameters:
    ///   - gemma: the model.
    ///   - drafts: how many drafts its rounds have.
    public init(_ gemma: Gemma4, drafts: TextOptions.Drafts = .learned) {
      self.gemma = gemma
      self.drafts = drafts
    }

    public var capabilities: LanguageModelCapabilities {
      LanguageModelCapabilities(gemma.manifest.text.chat?.thinking == nil ? [] : [.reasoning])
    }

    public var executorConfiguration: Gemma4Executor.Configuration {
      .init(model: ObjectIdentifier(gemma))
    }
  }
#endif
