import Gemma4

print("gemma4-chat")
