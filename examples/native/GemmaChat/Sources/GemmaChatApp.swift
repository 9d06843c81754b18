// Not compiled on Apple's systems: written by SwiftUI's documentation.
#if canImport(SwiftUI)
  import SwiftUI

  @main
  struct GemmaChatApp: App {
    @State private var model = ChatModel()
    @AppStorage("bundle") private var place = ""

    init() {
      NSApplication.shared.setActivationPolicy(.regular)  // a window, though there is no app bundle around the command
    }

    var body: some Scene {
      WindowGroup("Gemma 4") {
        switch model.state {
        case .ready, .answering: ChatView(model: model)
        case .downloading(let fraction): ProgressView("Downloading", value: fraction).padding(40)
        case .loading: ProgressView("Loading").padding(40)
        case .closed: opening
        }
      }
    }

    private var opening: some View {
      Form {
        TextField("Bundle", text: $place, prompt: Text("a folder, or https://"))
        if let failure = model.failure { Text(failure).foregroundStyle(.red) }
        Button("Open") { Task { await model.open(place) } }
          .disabled(place.isEmpty)
      }
      .padding(40)
      .frame(minWidth: 480)
    }
  }
#else
  @main
  enum GemmaChatApp {
    static func main() {
      print("GemmaChat has a window, which SwiftUI is needed for: try gemma4-chat")
    }
  }
#endif
