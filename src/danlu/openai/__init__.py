"""OpenAI's HTTP API as this house speaks it, said once for who asks (`engines/remote`), who lets pass (`serving`) and
who answers (`engines/server`): what a body may hold, turns and calls, server-sent events, addresses, errors.
No transport.
"""
