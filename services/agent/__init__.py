"""The agent: an idle process on any machine that reaches Redis. It runs one worker of a run at a time, as its child."""
