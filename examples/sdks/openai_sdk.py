from openai import OpenAI

client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY say where, and as whom
answer = client.chat.completions.create(
    model="smart-router",
    messages=[{"role": "user", "content": "Why is the sky blue?"}],
    extra_headers={"x-quartermaster-task-type": "qa"},  # counts where the route trusts the label taskType
)
print(answer.choices[0].message.content)
