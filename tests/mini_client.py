"""A p2pdfs client in Python's standard library, written from protocol.md alone.

    mini_client.py CONFIG put LOCAL REMOTE | get REMOTE LOCAL | list REMOTE

CONFIG has `main = "HOST:PORT"` and `key = "HEX"`. A put run again sends only what is missing."""
import hashlib, json, os, re, socket, struct, sys, time, uuid

class Fault(Exception):
    """What could not be done, and why."""

def good(outcome):
    if "fault" in outcome:
        raise Fault("{code}: {message}".format(**outcome["fault"]))
    return outcome["ok"]

class Connection:
    def __init__(self, address, **credentials):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=60)
        self.stream = self.socket.makefile("rb")
        self.ask("hello", versions=[1, 1], role="client", agent="mini_client/1", **credentials)

    def ask(self, request, payload=b"", **members):
        """Sends a request and returns its answer; keeps the payload that came with it."""
        text = json.dumps({request: members}).encode()
        self.socket.sendall(struct.pack(">II", len(text), len(payload)) + text + payload)
        json_bytes, payload_bytes = struct.unpack(">II", self.read(8))
        answer = json.loads(self.read(json_bytes))
        self.payload = self.read(payload_bytes)
        return good(answer)

    def read(self, count):
        if len(data := self.stream.read(count)) < count:
            raise OSError("the server closed the connection")
        return data

class Client:
    def __init__(self, config):
        settings = dict(re.findall(r'^(\w+) *= *"(.*)"', open(config).read(), re.MULTILINE))
        self.main = Connection(settings["main"], key=settings["key"])
        self.nodes = {}

    def ask_node(self, address, request, chunk, payload=b""):
        node = self.nodes.pop(address, None) or Connection(address)
        outcome = node.ask(request, payload, chunks=[chunk])["chunks"][0]
        self.nodes[address] = node  # Not after an error: that connection is of no use.
        good(outcome)
        return node.payload

    def store(self, chunk, data):
        """Stores a chunk where the main server says; returns the bytes that had to be sent."""
        answer = self.main.ask("allocate", chunks=[chunk])
        place = good(answer["chunks"][0]).get("store")
        if place is None:
            return 0
        chunk_and_token = {**chunk, "token": place["token"]}
        self.ask_node(answer["nodes"][str(place["node"])], "store", chunk_and_token, data)
        return len(data)

    def put(self, local, remote):
        ids, sent = [], []
        with open(local, "rb") as file:
            facts = os.fstat(file.fileno())
            while data := file.read(4 << 20):
                ids.append("sha1:" + hashlib.sha1(data).hexdigest())
                sent.append(self.store({"id": ids[-1], "length": len(data)}, data))
        entry = {"path": remote, "chunks": ids, "mtime_ms": facts.st_mtime_ns // 1_000_000,
                 "executable": bool(facts.st_mode & 0o100), "parents": True}
        good(self.main.ask("commit", request_id=uuid.uuid4().hex, files=[entry])["files"][0])
        print(f"sent {len(sent) - sent.count(0)} chunks, {sum(sent)} bytes")

    def fetch(self, chunk, addresses):
        """A chunk from the first of its copies that is whole."""
        algorithm, digest = chunk["id"].split(":")
        for copy in chunk["copies"]:
            try:
                node, token = str(copy["node"]), copy["token"]
                data = self.ask_node(addresses[node], "fetch", {"token": token})
                # The standard library lacks BLAKE3: of such chunks only the length is checked.
                is_right = algorithm != "sha1" or hashlib.sha1(data).hexdigest() == digest
                if is_right and len(data) == chunk["length"]:
                    return data
                self.main.ask("bad_copy", token=token, what="other bytes")
            except (Fault, OSError) as error:
                print(f"node {node}: {error}; trying the next copy", file=sys.stderr)
        raise Fault(f"no copy of {chunk['id']} could be read")

    def get(self, remote, local):
        wanted, count = {"path": remote, "from": 0}, 1
        with open(local + ".partial", "wb") as file:
            while wanted["from"] < count:
                answer = self.main.ask("open", files=[wanted])
                opened = good(answer["files"][0])
                for chunk in opened["chunks"]:
                    file.write(self.fetch(chunk, answer["nodes"]))
                wanted["from"] += len(opened["chunks"])
                wanted["version"], count = opened["file"]["version"], opened["file"]["chunk_count"]
        os.chmod(file.name, 0o755 if opened["file"]["executable"] else 0o644)
        os.utime(file.name, ns=(time.time_ns(), opened["file"]["mtime_ms"] * 1_000_000))
        os.replace(file.name, local)

    def list(self, remote):
        page = self.main.ask("list", path=remote)
        while page["entries"]:
            print(*(entry["name"] for entry in page["entries"]), sep="\n")
            page = self.main.ask("list", path=remote, after=page["entries"][-1]["name"])

if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] not in ("put", "get", "list"):
        sys.exit(__doc__)
    try:
        getattr(Client(sys.argv[1]), sys.argv[2])(*sys.argv[3:])
    except (Fault, OSError) as error:
        sys.exit(f"mini_client: {error}")
