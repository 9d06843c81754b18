// Written by Apple's documentation of macOS 27 and type-checked against a stand-in; it was not compiled on Apple's systems.
#if os(Linux) || canImport(FoundationModels, _version: 2)
  import FoundationModels
  import Gemma4

  /// A session's transcript as a chat: instructions, what was said, and the prompt that is to be answered.
  @available(macOS 27.0, iOS 27.0, visionOS 27.0, *)
  struct TranscriptChat: Sendable, Equatable {
    private(set) var instructions: String?
    private(set) var history: [Message] = []
    let prompt: String

    /// - Throws: `LanguageModelError` if there is something in it that is no text, or if it does not end with a prompt.
    init(_ transcript: Transcript) throws {
      var said: [Message] = []
      for entry in transcript {
        switch entry {
        case .instructions(let one):
          instructions = [instructions, try Self.text(one.segments, of: entry)].compactMap { $0 }.joined(separator: "\n")
        case .prompt(let one): said.append(Message(.user, try Self.text(one.segments, of: entry)))
        case .response(let one): said.append(Message(.model, try Self.text(one.segments, of: entry)))
        case .reasoning: break  // thoughts of earlier turns are not part of the chat format
        default: throw Self.unsupported(entry, "Gemma 4 is given text only here: no tools")
        }
      }
      guard let last = said.popLast(), last.role == .user else {
        throw Self.unsupported(transcript.last, "the transcript does not end with a prompt")
      }
      history = said
      prompt = last.content
    }

    var messages: [Message] {
      (instructions.map { [Message(.system, $0)] } ?? []) + history + [Message(.user, prompt)]
    }

    private static func text(_ segments: [Transcript.Segment], of entry: Transcript.Entry) throws -> String {
      try segments.map { segment in
        switch segment {
        case .text(let text): return text.content
        case .structure(let structure): return structure.content.jsonString
        default: throw unsupported(entry, "Gemma 4 is given text only here: no attachments")
        }
      }.joined(separator: "\n")
    }

    private static func unsupported(_ entry: Transcript.Entry?, _ why: String) -> LanguageModelError {
      .unsupportedTranscriptContent(.init(unsupportedContent: entry.map { [$0] } ?? [], debugDescription: why))
    }
  }
#endif
