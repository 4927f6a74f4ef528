#!/usr/bin/env python3
"""A Tianyu node from the protocol page alone: CUSTODY.md and telemetry.cddl, no line of Rust.

A reference for whoever writes a node in another language. It makes rounds of made-up readings,
keeps each in a file before it counts as taken, and hands them to a gateway (or to a broker that
one reads) until the gateway's sealed receipt says that they are in custody. Kill it, the gateway
or the network between them whenever you like. Python 3, standard library only.

Not shown: TLS, the switching of actuators (commands are checked and answered as refused), and
what makes a good flash ring: SQLite stands in for it.

    node.py run --port 1883 --name pond-7 --token TOKEN --key KEY --store pond-7.sqlite
    node.py self-test ../../firmware/telemetry
"""
import argparse, hashlib, hmac, json, os, random, select, signal, socket, sqlite3, struct, time

WINDOW = 256  # records beyond the last receipt
REPORT_BYTES = 1024  # of one report
MESSAGE_BYTES = 512  # of what comes down
SEGMENTS = 16  # of one report
ROUND_TRIP_MS = 2_000  # longest that may tell the time of day
RENEW_MS = 6 * 3_600_000  # a session is opened anew after this
ANCHORS = 8
DRIFT_PPM = 100
KEEP_ALIVE_S = 30
PATIENCE_MAX_MS = 60_000
PAUSE_MIN_S = 0.25
CONFIG, DIGEST = 1, 0x0DD51DE5
# Channel: property, digits that the page's table gives it. A value is kept as an integer.
CHANNELS = {0: (1, 2), 1: (4, 2), 2: (3, 2), 3: (20, 2), 9: (60, 3)}
GOOD, SUSPECT, MISSING, GOOD_WITH_TESTS, RAW = 0, 2, 4, 5, 8  # quality, as a round carries it
GAP, RATE, SPIKE, NO_ANSWER = 1, 8, 16, 1


# --- bytes -----------------------------------------------------------------------------------
def cbor(value):
    """The few kinds that are needed, each in its shortest form and of definite length."""

    def head(major, n):
        if n < 24:
            return bytes([major << 5 | n])
        code, form = next((24 + i, form) for i, form in enumerate((">B", ">H", ">I", ">Q")) if n < 256 ** (1 << i))
        return bytes([major << 5 | code]) + struct.pack(form, n)

    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    return head(4, len(value)) + b"".join(map(cbor, value))


def uncbor(data, at=0):
    """One value and the index after it; ValueError or IndexError for what is none."""
    major, n = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7 and n in (20, 21, 22):
        return {20: False, 21: True, 22: None}[n], at
    if 24 <= n <= 27:
        size = 1 << n - 24
        n, at = int.from_bytes(data[at:at + size], "big"), at + size
    elif n > 27:
        raise ValueError("no definite length")
    if major == 0:
        return n, at
    if major == 1:
        return -1 - n, at
    if at + n > len(data):
        raise ValueError("cut short")
    if major in (2, 3):
        return (bytes(data[at:at + n]) if major == 2 else data[at:at + n].decode()), at + n
    if major != 4:
        raise ValueError("a kind that no message has")
    items = []
    for _ in range(n):
        item, at = uncbor(data, at)
        items.append(item)
    return items, at


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def pack_rounds(rounds, base):
    """Rounds as units of four bits. Each byte string begins with nothing known: every state is 0."""
    units, t, interval, channels, config, quality, last = [], base, 0, 0, 0, {}, {}

    def unsigned(n):
        while n > 7:
            units.append(8 | n & 7)
            n >>= 3
        units.append(n)

    def signed(n):
        unsigned(2 * n if n >= 0 else -2 * n - 1)

    def step(to, since):  # modulo 2^32, as a signed number of 32 bits
        return (to - since + 2**31) % 2**32 - 2**31

    for r in rounds:
        mask = sum(1 << c for c, *_ in r["readings"])
        now = {c: (q | (RAW if raw is not None else 0), bits) for c, _, raw, q, bits in r["readings"]}
        anew = any(quality.get(c, (0, 0)) != q for c, q in now.items())
        changed = (r["t"] - t != interval, mask != channels, anew, r["config"] != config)
        units.append(sum(bit << n for n, bit in enumerate(changed)))
        if changed[0]:
            signed(r["t"] - t - interval)
        if changed[1]:
            unsigned(mask)
        if changed[3]:
            unsigned(r["config"])
        if changed[2]:
            for unit, bits in now.values():
                units.append(unit)
                if unit & 7 != GOOD:
                    unsigned(bits)
        for c, value, raw, q, _ in r["readings"]:
            if q != MISSING:
                signed(step(value, last.get(c, 0)))
                last[c] = value
                if raw is not None:
                    signed(step(raw, value))
        t, interval, channels, config = r["t"], r["t"] - t, mask, r["config"]
        quality.update(now)
    if len(units) % 2:
        units.append(4)
    return bytes(a << 4 | b for a, b in zip(units[::2], units[1::2]))


def segments(records, sent):
    """Runs of rounds become one byte string each; anything else is an array of its own."""
    found = []
    for r in records:
        if "readings" not in r:
            found.append(r["array"])
        elif found and isinstance(found[-1], tuple):
            found[-1] += (r,)
        else:
            found.append((r,))
    return [pack_rounds(s, sent) if isinstance(s, tuple) else s for s in found]


def report(ring, first, boot, sent, records):
    """None when it is too long."""
    body = [ring, first, len(records), boot, sent, 1, *segments(records, sent), bytes(4)]
    if len(body) - 7 > SEGMENTS:
        return None
    front = cbor(body)[:-5]
    whole = front + cbor(struct.pack(">I", crc32c(front)))
    return whole if len(whole) <= REPORT_BYTES else None


def seal(key, kind, node, nonce, body):
    """The first 16 bytes of HMAC-SHA-256 over what says to whom, of which session and kind."""
    return hmac.new(key, b"ty1/" + kind.encode() + b"/" + node.encode() + b"\0" + nonce + body, hashlib.sha256).digest()[:16]


# --- the ring --------------------------------------------------------------------------------
class Ring:
    """Records in a file, each durable before it counts as taken. Released ones stay until their
    room is needed; when there is no released one, the oldest sixteenth goes and a loss record
    says so."""

    def __init__(self, path, capacity=10_000):
        self.capacity, self.db = capacity, sqlite3.connect(path)
        self.db.executescript(
            "PRAGMA synchronous = FULL;"
            "CREATE TABLE IF NOT EXISTS record (seq INTEGER PRIMARY KEY, boot INTEGER, body TEXT);"
            "CREATE TABLE IF NOT EXISTS anchor (boot INTEGER PRIMARY KEY, mono INTEGER, utc INTEGER, error INTEGER);"
            "CREATE TABLE IF NOT EXISTS head (ring INTEGER, boot INTEGER, next INTEGER);"
        )
        with self.db:
            self.new = self.db.execute("SELECT count(*) FROM head").fetchone() == (0,)
            if self.new:
                self.db.execute("INSERT INTO head VALUES (?, 0, 0)", (int.from_bytes(os.urandom(4), "big"),))
            self.db.execute("UPDATE head SET boot = (boot + 1) % 65536")
        self.ring, self.boot, self.next = self.db.execute("SELECT * FROM head").fetchone()
        self.released = 0  # until a gateway says otherwise: what it has is its knowledge, not ours

    def floor(self):
        return self.db.execute("SELECT coalesce(min(seq), ?) FROM record", (self.next,)).fetchone()[0]

    def append(self, t, *bodies):
        """Takes records in one durable step. Whether unreleased ones had to go for them."""
        floor, bodies = self.floor(), list(bodies)
        full = self.next - floor >= self.capacity
        gone = max(1, self.capacity // 16) if full else 0
        lost = max(0, floor + gone - max(floor, self.released))
        if lost:
            bodies.insert(0, {"array": [3, t, floor + gone - lost, lost, 1]})
        with self.db:
            self.db.execute("DELETE FROM record WHERE seq < ?", (floor + gone,))
            for n, body in enumerate(bodies):
                self.db.execute("INSERT INTO record VALUES (?, ?, ?)", (self.next + n, self.boot, json.dumps(body)))
            self.db.execute("UPDATE head SET next = ?", (self.next + len(bodies),))
        self.next += len(bodies)
        return lost > 0

    def skip_to(self, seq):
        """The gateway has names that this ring never gave (the file is an old copy): none twice."""
        with self.db:
            self.db.execute("UPDATE head SET next = ?", (seq,))
        self.next = seq

    def run(self, first, end):
        """The boot of the first readable record from `first` on, and all of that boot before `end`."""
        rows = self.db.execute("SELECT seq, boot, body FROM record WHERE seq >= ? AND seq < ?", (first, end)).fetchall()
        boot = rows[0][1] if rows else self.boot
        end = min((seq for seq, of, _ in rows if of != boot), default=end)
        bodies = {seq: json.loads(body) for seq, _, body in rows}
        return boot, [bodies.get(seq, {"array": [4, 1]}) for seq in range(first, end)]

    def anchor(self, mono, utc, error):
        with self.db:
            self.db.execute("INSERT OR REPLACE INTO anchor VALUES (?, ?, ?, ?)", (self.boot, mono, utc, error))

    def anchors(self):
        newest = "SELECT boot, mono, utc, error, ? FROM anchor ORDER BY rowid DESC LIMIT ?"
        return self.db.execute(newest, (DRIFT_PPM, ANCHORS)).fetchall()


# --- MQTT 3.1.1, as much as is needed ---------------------------------------------------------
class Mqtt:
    def __init__(self, host, port, name, token):
        self.socket, self.input, self.id = socket.create_connection((host, port), timeout=10), b"", 0
        self.pinged = time.monotonic()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Clean session, user name, password.
        hello = text("MQTT") + bytes([4, 0xC2]) + struct.pack(">H", KEEP_ALIVE_S)
        self.packet(0x10, hello + text(name) + text(name) + text(token))
        kind, body = self.wait(0x20)
        if body[1] != 0:
            raise ConnectionError(f"login refused with {body[1]}")
        self.packet(0x82, struct.pack(">H", self.next_id()) + text(f"ty/1/{name}/down/#") + b"\1")
        if self.wait(0x90)[1][2] > 1:
            raise ConnectionError("subscription refused")

    def next_id(self):
        self.id = self.id % 0xFFFF + 1
        return self.id

    def packet(self, kind, body):
        length, n = b"", len(body)
        while True:
            length += bytes([n & 127 | (128 if n > 127 else 0)])
            n >>= 7
            if not n:
                break
        self.socket.sendall(bytes([kind]) + length + body)

    def publish(self, topic, payload, qos):
        self.packet(0x30 | qos << 1, text(topic) + (struct.pack(">H", self.next_id()) if qos else b"") + payload)

    def take(self):
        """One packet that has arrived whole, or None."""
        size, at = 0, 1
        while True:
            if at >= len(self.input):
                return None
            size |= (self.input[at] & 127) << 7 * (at - 1)
            at += 1
            if not self.input[at - 1] & 128:
                break
        if len(self.input) < at + size:
            return None
        kind, body, self.input = self.input[0], self.input[at:at + size], self.input[at + size:]
        return kind, body

    def receive(self, within):
        """Packets that come within this many seconds, at once when there are some."""
        if select.select([self.socket], [], [], max(0, within))[0]:
            data = self.socket.recv(65_536)
            if not data:
                raise ConnectionError("the other side closed the connection")
            self.input += data
        while (packet := self.take()) is not None:
            yield packet

    def messages(self, within):
        """Topic and payload of what is published to us."""
        if time.monotonic() - self.pinged > KEEP_ALIVE_S / 2:
            self.packet(0xC0, b"")
            self.pinged = time.monotonic()
        for kind, body in self.receive(within):
            if kind & 0xF0 == 0x30:  # PUBACKs and PINGRESPs prove nothing and are passed over
                at = 2 + int.from_bytes(body[:2], "big")
                after = at + 2 if kind & 6 else at
                if kind & 6:
                    self.packet(0x40, body[at:after])
                yield body[2:at].decode(errors="replace"), body[after:]

    def wait(self, wanted, within=10):
        end = time.monotonic() + within
        while time.monotonic() < end:
            for kind, body in self.receive(end - time.monotonic()):
                if kind == wanted:
                    return kind, body
        raise ConnectionError(f"no packet {wanted:#x}")


def text(s):
    return struct.pack(">H", len(s.encode())) + s.encode()


# --- the node --------------------------------------------------------------------------------
class Node:
    """The conversation. It publishes through `send(kind, payload, qos)` and knows no socket."""

    def __init__(self, name, key, ring, patience_ms=5_000):
        self.name, self.key, self.ring, self.patience_min = name, key, ring, patience_ms
        self.started = time.monotonic()
        self.counts = {"sealed for another": 0, "not understood": 0, "not obeyed": 0}
        self.send = self.nonce = self.newest = None
        self.patience, self.alarms = patience_ms, 0
        channels, actuators = [[c, p, 0, 1] for c, (p, _) in CHANNELS.items()], [[0, 1]]
        described = [2, 0, CONFIG, DIGEST, DRIFT_PPM, "0.1", "python", channels, actuators]
        # At every start: a gateway that has lost all it knew can then place what is to come.
        ring.append(self.now(), {"array": described}, self.event(1, 0, 3, ring.boot))  # restarted by software

    def now(self):
        """Milliseconds since this boot, by a clock that nobody sets."""
        return int((time.monotonic() - self.started) * 1000)

    def event(self, code, subject, value, detail):
        return {"array": [1, self.now(), code, subject, value, detail]}

    def connected(self, send):
        self.send, self.nonce = send, None

    def lost(self):
        self.send = self.nonce = None

    def open(self):
        r = self.ring
        # Never twice and not to be foreseen: a receipt of an earlier session must not fit.
        self.nonce, self.opened, self.answered, self.command_seen = os.urandom(8), self.now(), False, -1
        self.deadline = self.opened + self.patience * random.uniform(1, 1.25)
        self.send("session", cbor([1, 1, self.nonce, r.ring, r.boot, r.floor(), r.next, self.opened]), 1)

    def down(self, kind, payload):
        """A message from the gateway. What does not verify has no effect."""
        try:
            if len(payload) > MESSAGE_BYTES:
                raise ValueError("too long")
            (body, mac), end = uncbor(payload)
            if end != len(payload) or not isinstance(body, bytes) or not isinstance(mac, bytes):
                raise ValueError("not sealed")
            if self.nonce is None or not hmac.compare_digest(mac, seal(self.key, kind, self.name, self.nonce, body)):
                self.counts["sealed for another"] += 1
                return
            message = uncbor(body)[0]
            if message[0] == 1 and kind == "receipt":
                self.receipt(*message[1:4])  # more elements may follow: a newer gateway
            elif message[0] == 1 and kind == "command":
                self.command(*message[1:4])
            else:
                self.counts["not understood"] += 1
        except (ValueError, IndexError, TypeError):
            self.counts["not understood"] += 1

    def receipt(self, ring, upto, utc):
        r, now = self.ring, self.now()
        if ring != r.ring:
            self.counts["not obeyed"] += 1
        elif not self.answered:
            news, self.answered, self.sent, r.released = upto > r.released, True, upto, upto
            trip = now - self.opened
            known = utc is not None and trip <= ROUND_TRIP_MS
            if known:
                # The gateway read its clock somewhere within the round trip.
                mono, error = self.opened + trip // 2, (trip + 1) // 2 + 1
                r.anchor(mono, utc, error)
            self.send("session", cbor([1, 2, self.nonce, r.ring, r.anchors()]), 1)
            if known:
                self.take({"array": [1, now, 4, 0, utc + now - mono, error]})  # clock set
            self.progress(upto, news)
        elif upto > r.released:
            r.released, self.sent = upto, max(upto, self.sent)
            self.progress(upto, True)
        if upto > r.next and ring == r.ring:
            r.skip_to(upto)

    def progress(self, upto, news):
        if news:  # else it only answers, and takes nothing: no reason to hurry
            self.patience = self.patience_min
        self.deadline = self.now() + self.patience * random.uniform(1, 1.25)
        print(f"receipted {upto}", flush=True)

    def command(self, counter, not_after, order):
        if order not in (1, 2, 3) or counter <= self.command_seen or self.now() > not_after:
            self.counts["not obeyed"] += 1
            return
        self.command_seen = counter
        if order == 1:
            self.nonce = None
        else:
            self.take(self.event(7, 0, counter, 1))  # refused: there is nothing here to switch

    def take(self, body):
        """Keeps a record. What it pushed out is told by opening anew, with the new floor."""
        if self.ring.append(self.now(), body):
            self.nonce = None

    def poll(self):
        """Opens a session where there is none, and sends what the window has room for."""
        r, now = self.ring, self.now()
        if self.send is None:
            return
        if self.newest is not None:
            live, self.newest = pack_rounds([self.newest], now), None
            self.send("live", cbor([1, r.boot, now, live, 1, self.alarms]), 0)
        if self.nonce is not None and self.answered:
            if now - self.opened > RENEW_MS:
                self.nonce = None
            elif self.sent == r.released:
                self.deadline = now + self.patience  # nothing is awaited
        if self.nonce is not None and now > self.deadline:
            print("no receipt in time", flush=True)
            self.patience, self.nonce = min(2 * self.patience, PATIENCE_MAX_MS), None
        if self.nonce is None:
            self.open()
        while self.answered and self.sent < (end := min(r.next, r.released + WINDOW)):
            boot, records = r.run(self.sent, end)
            while (payload := report(r.ring, self.sent, boot, now, records)) is None:
                records = records[: max(1, len(records) * 3 // 4)]
            self.send("report", payload, 1)
            self.sent += len(records)

    def done(self):
        return self.nonce is not None and self.answered and self.ring.released >= self.ring.next

    def sample(self, n):
        """Round n of made-up readings: channel, value, raw value, quality, tests or reason."""
        do, suspect, dead = 500 + n % 400, n % 11 == 0, n % 7 == 0
        readings = [
            [0, do, do + 12 if n % 5 == 0 else None, *((SUSPECT, RATE | SPIKE) if suspect else (GOOD, 0))],
            [1, 2500 - n, None, GOOD, 0],
            [2, 0, None, MISSING, NO_ANSWER] if dead else [2, 780 + n % 3, None, GOOD, 0],
            [3, n - 150, None, *((GOOD_WITH_TESTS, GAP) if n % 13 == 0 else (GOOD, 0))],
            [9, 12_600 - n % 2, None, GOOD, 0],
        ]
        taken = {"t": self.now(), "config": CONFIG, "readings": readings}
        self.take(taken)
        self.newest = taken
        if n % 50 == 49:
            self.alarms ^= 1
            self.take(self.event(6, 0, self.alarms, 1))  # alarm 0 is raised and cleared by turns


def run(options):
    ring = Ring(options.store)
    node = Node(options.name, bytes.fromhex(options.key), ring, options.patience_ms)
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    print(f"ring {ring.ring} boot {ring.boot} next {ring.next}", flush=True)
    # Rounds that the file still has, of whichever boot: only so that values go on.
    made = ring.db.execute("SELECT count(*) FROM record WHERE body LIKE '%readings%'").fetchone()[0]
    mqtt, pause, due = None, PAUSE_MIN_S, time.monotonic()
    retry = due
    # One task for all: a connection that takes long delays a round. A real node samples beside it.
    while not (ending and node.done()):
        if not ending and time.monotonic() >= due:
            node.sample(made)
            made, due = made + 1, due + options.every_ms / 1000
        try:
            if mqtt is None and time.monotonic() >= retry:
                mqtt = Mqtt(options.host, options.port, options.name, options.token)
                node.connected(lambda kind, payload, qos: mqtt.publish(f"ty/1/{options.name}/up/{kind}", payload, qos))
                pause = PAUSE_MIN_S
            node.poll()
            wait = 0.05 if ending else min(0.05, max(0, due - time.monotonic()))
            if mqtt is None:
                time.sleep(wait)
            else:
                for topic, payload in mqtt.messages(wait):
                    node.down(topic.rsplit("/", 1)[-1], payload)
        except OSError as error:
            print(f"not connected: {error}", flush=True)
            if mqtt is not None:
                mqtt.socket.close()
            mqtt = None
            node.lost()
            retry, pause = time.monotonic() + pause * random.uniform(1, 1.25), min(2 * pause, PATIENCE_MAX_MS / 1000)
    print(f"delivered {ring.next} {json.dumps(node.counts)}", flush=True)


# --- self-test -------------------------------------------------------------------------------
def self_test(folder):
    """Against the golden file and the page's own example; nothing is connected."""
    golden = {}
    for line in open(os.path.join(folder, "tests", "golden-1.txt"), encoding="utf-8"):
        name, _, data = line.strip().partition(": ")
        golden.setdefault(name, bytes.fromhex(data))
    values = [719, 918, 812, 2741, 2835, 123, 1832, 12_610]
    live = {"t": 86_400_000 - 350, "config": 3, "readings": [[c, v, None, GOOD, 0] for c, v in enumerate(values)]}
    suspect = json.loads(json.dumps(live))
    suspect["t"] += 60_000
    suspect["readings"][0][2:] = [731, SUSPECT, RATE | SPIKE]
    suspect["readings"][3][1:] = [0, None, MISSING, NO_ANSWER]
    suspect["readings"][4][3:] = [GOOD_WITH_TESTS, GAP]
    described = {"array": [2, 5, 3, 0x01020304, 40, "0.1.0", "host", [[0, 1, 2, 60]], [[0, 1]]]}
    event, gone, loss = {"array": [1, 9, 1, 0, 2, 41]}, {"array": [4, 1]}, {"array": [3, 10, 3, 4, 1]}
    sent, nonce = 86_400_000, bytes(range(1, 9))
    mixed = report(0xDEADBEEF, 1000, 7, sent, [described, live, suspect, event, gone, gone, loss, suspect])
    same = {
        "live report": report(0xDEADBEEF, 1000, 7, sent, [live]),
        "mixed report": mixed,
        "open": cbor([1, 1, nonce, 9, 2, 10, 20, 30]),
        "ready": cbor([1, 2, nonce, 9, [[2, 30, 1_790_000_000_000, 12, 40]]]),
        "receipt": cbor([1, 9, 20, 1_790_000_000_000]),
        "snapshot": cbor([1, 7, sent, pack_rounds([live], sent), 1, 4]),
    }
    for name, ours in same.items():
        assert ours == golden[name], f"{name}: {ours and ours.hex()} is not {golden[name].hex()}"
    for value in (0, 23, 24, 2**16, 2**32, -1, -500, None, b"ab", "ü", [1, [True, False]]):
        assert uncbor(cbor(value)) == (value, len(cbor(value))), value

    # The page's example: key 00 01 … 1f, node pond-7, nonce 01 … 08, the golden receipt.
    key, body = bytes(range(32)), golden["receipt"]
    page = open(os.path.join(folder, "CUSTODY.md"), encoding="utf-8").read()

    def example(name):
        lines = page.split(f"<!-- bytes: {name} -->")[1].split("<!-- end -->")[0].strip().splitlines()
        return bytes.fromhex("".join(line.split()[0] for line in lines))

    assert example("sealed receipt") == cbor([body, seal(key, "receipt", "pond-7", nonce, body)])
    corrected = {"t": 1000, "config": 1, "readings": [[0, 719, 731, GOOD, 0]]}
    assert example("good with raw") == pack_rounds([corrected], 0)

    ring = Ring(":memory:", capacity=64)
    node, sent = Node("pond-7", key, ring), []
    node.connected(lambda kind, payload, qos: sent.append((kind, payload)))
    for n in range(20):
        node.sample(n)
    node.poll()

    def tell(key=key, kind="receipt", name="pond-7", nonce=None, ring_id=ring.ring, upto=10, flip=None, on="receipt"):
        body = cbor([1, ring_id, upto, None])
        message = bytearray(cbor([body, seal(key, kind, name, nonce or node.nonce, body)]))
        if flip is not None:
            message[flip // 8] ^= 1 << flip % 8
        node.down(on, bytes(message))
        return len(message)

    tell(key=bytes(32))
    tell(kind="command")
    tell(name="pond-8")
    tell(nonce=bytes(8))
    tell(ring_id=ring.ring ^ 1)
    node.down("receipt", cbor([1, ring.ring, 10, None]))
    for bit in range(8 * tell(nonce=bytes(8))):
        tell(flip=bit)
    assert ring.released == 0 and not node.answered, "a forged receipt has released something"
    tell()
    assert ring.released == 10 and [kind for kind, _ in sent][-1] == "session", "the right one releases, and ready goes out"
    tell(upto=5)
    assert ring.released == 10, "a receipt never takes back"
    sent.clear()
    node.poll()
    assert sum(uncbor(payload)[0][2] for kind, payload in sent if kind == "report") == ring.next - 10
    tell(upto=ring.next)
    # Nobody answers until the ring is full: what goes is said, and the gateway hears of the floor.
    old, floor = node.nonce, ring.next
    for n in range(20, 120):
        node.sample(n)
    assert ring.floor() > floor and node.nonce is None, "the oldest records went"
    lost = [body["array"] for body in ring.run(ring.floor(), ring.next)[1] if "array" in body and body["array"][0] == 3]
    assert lost and all(cause == 1 and count > 0 for _, _, _, count, cause in lost), lost
    sent.clear()
    node.poll()
    opened = [uncbor(payload)[0] for kind, payload in sent if kind == "session"]
    assert [(message[1], message[5]) for message in opened] == [(1, ring.floor())], opened
    assert opened[0][2] == node.nonce != old, "a nonce is used once"
    # The gateway says that it has more than this ring ever named: no name is given twice.
    tell(upto=ring.next + 1000)
    node.sample(120)
    assert ring.next > 1000 and ring.floor() < ring.released
    print("self-test passed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="measure and deliver; after SIGTERM, deliver what is left and end")
    running.add_argument("--host", default="127.0.0.1")
    running.add_argument("--port", type=int, default=1883)
    for option in ("name", "token", "key", "store"):
        running.add_argument("--" + option, required=True)
    running.add_argument("--every-ms", type=int, default=1000)
    running.add_argument("--patience-ms", type=int, default=5000)
    testing = verbs.add_parser("self-test", help="check the bytes against the protocol's golden file")
    testing.add_argument("folder", help="firmware/telemetry")
    chosen = parser.parse_args()
    run(chosen) if chosen.verb == "run" else self_test(chosen.folder)
