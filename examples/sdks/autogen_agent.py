import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

# What the backends of the route can do: AutoGen knows the names of OpenAI's models only.
able = ModelInfo(vision=False, function_calling=True, json_output=True, structured_output=True, family="unknown")


async def main():
    client = OpenAIChatCompletionClient(model="smart-router", model_info=able)  # OPENAI_BASE_URL and OPENAI_API_KEY
    result = await AssistantAgent("explainer", client).run(task="Why is the sky blue?")
    print(result.messages[-1].content)
    await client.close()


asyncio.run(main())
