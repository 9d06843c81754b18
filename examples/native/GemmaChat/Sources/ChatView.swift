// Not compiled on Apple's systems: written by SwiftUI's documentation.
#if canImport(SwiftUI)
  import SwiftUI

  /// The conversation, and a field for the next message. What the assistant has drafted is green.
  struct ChatView: View {
    @Bindable var model: ChatModel

    var body: some View {
      VStack(spacing: 0) {
        ScrollView {
          LazyVStack(alignment: .leading, spacing: 12) {
            ForEach(model.lines) { LineView(line: $0) }
          }
          .padding()
        }
        .defaultScrollAnchor(.bottom)
        if let failure = model.failure {
          Text(failure).foregroundStyle(.red).padding(.horizontal)
        }
        entry.padding()
      }
      .toolbar {
        Toggle("Thoughts", isOn: $model.thinking)
        Button("New Chat", systemImage: "square.and.pencil") { model.reset() }
          .disabled(model.state != .ready)
      }
    }

    private var entry: some View {
      HStack {
        TextField("Message", text: $model.message, axis: .vertical)
          .textFieldStyle(.roundedBorder)
          .onSubmit { model.send() }
        if model.state == .answering {
          Button("Stop", systemImage: "stop.fill") { model.stop() }
        } else {
          Button("Send", systemImage: "arrow.up") { model.send() }
            .disabled(!model.canSend)
        }
      }
    }
  }

  private struct LineView: View {
    let line: ChatModel.Line

    var body: some View {
      VStack(alignment: line.role == .user ? .trailing : .leading, spacing: 4) {
        Text(letters).textSelection(.enabled)
          .padding(8)
          .background((line.role == .user ? Color.accentColor : Color.gray).opacity(0.15))
          .clipShape(.rect(cornerRadius: 8))
        if !line.note.isEmpty {
          Text(line.note).font(.caption).foregroundStyle(.secondary)
        }
      }
      .frame(maxWidth: .infinity, alignment: line.role == .user ? .trailing : .leading)
    }

    private var letters: AttributedString {
      line.runs.reduce(into: AttributedString()) { whole, run in
        var part = AttributedString(run.text)
        if run.isThought { part.swiftUI.foregroundColor = Color.secondary }
        if run.isDraft { part.swiftUI.foregroundColor = Color.green }
        whole += part
      }
    }
  }
#endif
