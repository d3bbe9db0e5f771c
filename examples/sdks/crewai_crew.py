from crewai import LLM, Agent, Crew, Task

llm = LLM(model="smart-router", provider="openai")  # OPENAI_BASE_URL and OPENAI_API_KEY
explainer = Agent(role="Explainer", goal="Explain simply", backstory="A teacher.", llm=llm)
task = Task(description="Why is the sky blue?", expected_output="A sentence", agent=explainer)
print(Crew(agents=[explainer], tasks=[task]).kickoff().raw)
