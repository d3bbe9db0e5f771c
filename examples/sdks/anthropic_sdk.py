from anthropic import Anthropic

client = Anthropic()  # ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY
message = client.messages.create(
    model="smart-router",
    max_tokens=1000,
    messages=[{"role": "user", "content": "Why is the sky blue?"}],
)
print(message.content[0].text)
