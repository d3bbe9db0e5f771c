#!/usr/bin/env python3
"""A sample agent on a Redis stream or list, with the same behaviour as dev/src/agent/: see README.md.

Needs redis-py, and OpenAI's SDK for tasks that ask a model (pip install -r requirements.txt). Settings are environment variables:

REDIS_URL          such as redis://:password@redis.demo:6379/0
AGENT_STREAM       a stream with an entry a task: the fields "milliseconds", "id" if it has one of its own, and "model" and "prompt"
                   if it asks a model
AGENT_GROUP        its consumer group ("agents"); made if it does not exist
AGENT_LIST         instead of a stream, a list with a text a task, such as {"id": "a", "milliseconds": 100}, with the same members
AGENT_CLAIM_AFTER  milliseconds without a sign of life after which an agent counts as dead (60000)
QUARTERMASTER_BATCH_MAX_TASKS  how many tasks are taken at a time (1); a pool sets it by spec.batch.maxTasks
POD_NAME           the name of this agent
OPENAI_BASE_URL, OPENAI_API_KEY  where models are asked, and as whom; a pool with spec.modelRoutes sets them
"""

import json
import os
import signal
import threading
import time

import openai
import redis

# How long one question for a task waits for an answer, in seconds. As long may pass between SIGTERM and the end of an agent
# that has nothing to do.
WAIT = 1.0
TRY_AGAIN_AFTER = 1.0

# The signal only says that nothing else is taken: what this agent has is finished.
ending = threading.Event()


class Task:
    """A task that this agent has: `entry` is how the queue knows it."""

    def __init__(self, entry, said, delivery=None):
        self.entry = entry
        self.id = str(said.get("id") or entry)
        self.seconds = int(said.get("milliseconds") or 0) / 1000
        self.model, self.prompt = said.get("model"), said.get("prompt") or ""
        self.delivery = delivery


class Stream:
    """Tasks in a stream with a consumer group."""

    def __init__(self, server, key, group, consumer, batch, claim_after):
        self.server, self.key, self.group = server, key, group
        self.consumer, self.batch, self.claim_after = consumer, batch, claim_after
        self.has_group = False
        self.may_have_own = True  # left by an earlier process of this name
        self.claim_at = 0.0

    def next(self):
        """What an earlier process of this name has left, else what a dead consumer has left, else what is new."""
        self.make_group()
        if self.may_have_own:
            if tasks := self.read("0", None):
                return tasks
            self.may_have_own = False
        if time.monotonic() >= self.claim_at:
            if task := self.claim():
                return [task]
            self.claim_at = time.monotonic() + self.claim_after / 3000
        try:
            return self.read(">", int(WAIT * 1000))
        except redis.RedisError:
            # The stream, and its group, may have been deleted; or an answer was lost that held an entry.
            self.has_group, self.may_have_own = False, True
            raise

    def make_group(self):
        """The group begins at the first entry: tasks that came before the agents are tasks too."""
        if self.has_group:
            return
        try:
            self.server.xgroup_create(self.key, self.group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self.has_group = True

    def read(self, start, block):
        reply = self.server.xreadgroup(self.group, self.consumer, {self.key: start}, count=self.batch, block=block)
        # A list of pairs or, from later versions of redis-py, a dictionary of lists of pages.
        keys = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or []]
        tasks = []
        for entries in keys:
            while entries and isinstance(entries[0], list):
                entries = entries[0]
            tasks += [task for entry, said in entries if (task := self.taken(entry, said))]
        return tasks

    def claim(self):
        start = "0-0"
        # An answer may hold nothing though there is more: the server looks at ten times as many entries as are asked for.
        while True:
            start, entries, *_ = self.server.xautoclaim(
                self.key, self.group, self.consumer, min_idle_time=self.claim_after, start_id=start, count=1
            )
            for entry, said in entries:
                if task := self.taken(entry, said):
                    return task
            if start == "0-0":
                return None

    def taken(self, entry, said):
        if not said:
            # It was deleted from the stream while it was pending.
            self.server.xack(self.key, self.group, entry)
            return None
        pending = self.server.xpending_range(self.key, self.group, entry, entry, 1)
        return Task(entry, said, pending[0]["times_delivered"] if pending else None)

    def show_life(self, tasks):
        """Claims its own entries: that sets the time back after which they count as those of a dead consumer."""
        self.server.xclaim(self.key, self.group, self.consumer, 0, [task.entry for task in tasks], justid=True)

    def done(self, task, record):
        with self.server.pipeline(transaction=True) as both:
            both.xadd(f"{self.key}:done", record)
            both.xack(self.key, self.group, task.entry)
            both.execute()


class List:
    """Tasks in a list: each agent moves them to a list of its own, and takes them off there when they are done."""

    def __init__(self, server, key, consumer, batch, claim_after):
        self.server, self.key, self.consumer = server, key, consumer
        self.batch, self.claim_after = batch, claim_after
        self.own = f"{key}:processing:{consumer}"
        self.may_have_own = True
        self.recover_at = 0.0

    def next(self):
        """What an earlier process of this name has left, else the oldest tasks of the list."""
        self.show_life()
        if self.may_have_own:
            if text := self.server.lindex(self.own, -1):
                return [self.taken(text)]
            self.may_have_own = False
        if time.monotonic() >= self.recover_at:
            self.recover()
            self.recover_at = time.monotonic() + self.claim_after / 3000
        try:
            text = self.server.blmove(self.key, self.own, WAIT, "RIGHT", "LEFT")
        except redis.RedisError:
            # An answer may have been lost that held a task.
            self.may_have_own = True
            raise
        tasks = [self.taken(text)] if text else []
        while tasks and len(tasks) < self.batch:
            try:
                text = self.server.lmove(self.key, self.own, "RIGHT", "LEFT")
            except redis.RedisError:
                # What it has already it works on; what the answer held that was lost it finds later.
                self.may_have_own = True
                break
            if not text:
                break
            tasks.append(self.taken(text))
        return tasks

    def taken(self, text):
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        return Task(text, said if isinstance(said, dict) else {})

    def show_life(self, _tasks=None):
        self.server.set(f"{self.key}:alive:{self.consumer}", "", px=self.claim_after)

    def recover(self):
        """Puts back what dead agents have left, where it will be taken next."""
        prefix = f"{self.key}:processing:"
        for left in list(self.server.scan_iter(match=f"{prefix}*")):
            if not self.server.exists(f"{self.key}:alive:{left.removeprefix(prefix)}"):
                print(f"putting back what is left in {left}", flush=True)
                while self.server.lmove(left, self.key, "LEFT", "RIGHT"):
                    pass

    def done(self, task, record):
        with self.server.pipeline(transaction=True) as both:
            both.xadd(f"{self.key}:done", record)
            both.lrem(self.own, 1, task.entry)
            both.execute()


def ask(task, answer):
    """Asks the task's model, as a stream that is read to its end, and once: a repeated call would hide one that failed."""
    try:
        client = openai.OpenAI(max_retries=0, timeout=120)
        with client.chat.completions.with_streaming_response.create(
            model=task.model, stream=True, messages=[{"role": "user", "content": task.prompt}]
        ) as response:
            if backend := response.headers.get("x-quartermaster-backend"):
                answer["backend"] = backend
            chunks = list(response.parse())
        ended = any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
        answer["call"] = "answered" if ended else "cut"
    except openai.APIStatusError as error:
        answer["call"] = str(error.status_code)
    except openai.APIConnectionError as error:
        answer["call"] = str(error)
    except openai.OpenAIError:
        answer["call"] = "cut"


def finish(queue, consumer, claim_after, task, has):
    """Does a task and says so, however long that takes: a task that was done must not be done again.

    All that this agent has shows that it lives meanwhile.
    """
    began = time.time()
    print(f"{consumer} begins with {task.id}", flush=True)
    answer = {}
    asking = threading.Thread(target=ask, args=(task, answer))
    if task.model:
        asking.start()
    left = task.seconds
    while left > 0 or asking.is_alive():
        now = min(left, claim_after / 3000) if left > 0 else 0
        time.sleep(now)  # The work.
        left -= now
        if asking.is_alive():
            asking.join(claim_after / 3000)
        try:
            queue.show_life(has)
        except redis.RedisError as error:
            print(f"failed to show that {task.id} is being worked on: {error}", flush=True)
    record = {"task": task.id, "consumer": consumer, "began": int(began * 1000), "ended": int(time.time() * 1000), **answer}
    if task.delivery is not None:
        record["delivery"] = task.delivery
    while True:
        try:
            queue.done(task, record)
            break
        except redis.RedisError as error:
            print(f"failed to say that {task.id} is done: {error}", flush=True)
            time.sleep(TRY_AGAIN_AFTER)
    print(f"{consumer} has done {task.id}", flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.signal(signal.SIGINT, lambda *_: ending.set())
    consumer = os.environ["POD_NAME"]
    claim_after = int(os.environ.get("AGENT_CLAIM_AFTER", "60000"))
    batch = int(os.environ.get("QUARTERMASTER_BATCH_MAX_TASKS", "1"))
    # More than the server is asked to wait.
    server = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, socket_timeout=10)
    if stream := os.environ.get("AGENT_STREAM"):
        queue = Stream(server, stream, os.environ.get("AGENT_GROUP", "agents"), consumer, batch, claim_after)
    else:
        queue = List(server, os.environ["AGENT_LIST"], consumer, batch, claim_after)

    print(f"{consumer} takes tasks", flush=True)
    while not ending.is_set():
        try:
            tasks = queue.next()
        except redis.RedisError as error:
            print(f"failed to ask for a task: {error}", flush=True)
            time.sleep(TRY_AGAIN_AFTER)
            continue
        for place, task in enumerate(tasks):
            finish(queue, consumer, claim_after, task, tasks[place:])
    print(f"{consumer} ends", flush=True)


if __name__ == "__main__":
    main()
