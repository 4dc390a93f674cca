#!/usr/bin/env python3
"""Stands in for Vaultwarden: reads the same variables, answers from the database it is given.

EXTRA is replaced by the rounds that its answers add to those of the database: 0, or a fault.
"""
import http.server, json, os, signal, sqlite3, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
data, path = os.environ["DATA_FOLDER"], os.environ["DATABASE_URL"]
assert not os.path.exists(os.environ["CONFIG_FILE"]), "the backup's own settings are in force"
assert not [name for name in os.environ if "SMTP" in name], "it could send mail"
assert not os.path.exists(path + "-wal"), "a stale log"
class Answers(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        with sqlite3.connect(path) as database:
            database.execute("SELECT 1 FROM users")
        self.answer("2026-11-23T02:41:37.123456Z")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/identity/accounts/prelogin", self.path
        with sqlite3.connect(path) as database:
            kdf, rounds = database.execute("SELECT client_kdf_type, client_kdf_iter FROM users"
                                           " WHERE email = ?", (asked["email"],)).fetchone()
        self.answer({"kdf": kdf, "kdfIterations": rounds + EXTRA, "kdfMemory": None,
                     "kdfParallelism": None})
    def log_message(self, *_):
        pass
address = os.environ["ROCKET_ADDRESS"], int(os.environ["ROCKET_PORT"])
http.server.HTTPServer(address, Answers).serve_forever()
