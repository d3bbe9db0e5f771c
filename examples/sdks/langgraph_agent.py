from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

model = ChatOpenAI(model="smart-router")  # OPENAI_BASE_URL and OPENAI_API_KEY


def answer(state: MessagesState):
    return {"messages": [model.invoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()
state = graph.invoke({"messages": [("user", "Why is the sky blue?")]})
print(state["messages"][-1].text)
