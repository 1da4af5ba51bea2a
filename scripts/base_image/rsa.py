"""An RSA key pair derived from a public seed.

apk installs only from repositories signed with a key in /etc/apk/keys. This key satisfies it and PROTECTS NOTHING:
whoever reads this file can derive the private half. It exists so that no private key lies in the repository and the
signatures (RSA PKCS#1 v1.5 is deterministic), and with them the image's digest, are the same everywhere.

An image made from this base trusts the key. That is harmless as long as its /etc/apk/repositories names only files in
the image, as it does; who adds a repository on a network should delete the key first. The base is for tests and
examples.
"""

import base64
import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

PUBLIC_EXPONENT = 65537
_SEED = b"wbuild base image: a signing key that protects nothing, version 1"
_SMALL_PRIMES = [n for n in range(3, 2000, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2))]
_RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d010101")  # OBJECT IDENTIFIER 1.2.840.113549.1.1.1


@dataclass(frozen=True)
class KeyPair:
    n: int
    e: int
    d: int
    p: int
    q: int

    def private_pem(self) -> bytes:
        """PKCS#1, as `openssl genrsa -traditional` writes it."""
        numbers = (0, self.n, self.e, self.d, self.p, self.q,
                   self.d % (self.p - 1), self.d % (self.q - 1), pow(self.q, -1, self.p))
        return _pem("RSA PRIVATE KEY", _sequence(*map(_integer, numbers)))

    def public_pem(self) -> bytes:
        """SubjectPublicKeyInfo, as `openssl rsa -pubout` writes it."""
        algorithm = _sequence(_RSA_ENCRYPTION, _tlv(0x05, b""))
        key = _sequence(_integer(self.n), _integer(self.e))
        return _pem("PUBLIC KEY", _sequence(algorithm, _tlv(0x03, b"\0" + key)))


def derive(seed: bytes = _SEED, bits: int = 2048) -> KeyPair:
    """The key pair of `seed`: the first two suitable primes in a stream of hashes."""
    primes = _primes(seed, bits // 2)
    p, q = next(primes), next(primes)
    if p < q:
        p, q = q, p
    return KeyPair(n=p * q, e=PUBLIC_EXPONENT, d=pow(PUBLIC_EXPONENT, -1, math.lcm(p - 1, q - 1)), p=p, q=q)


def _primes(seed: bytes, bits: int) -> Iterator[int]:
    for counter in itertools.count():
        candidate = int.from_bytes(hashlib.shake_256(seed + counter.to_bytes(8, "big")).digest(bits // 8), "big")
        candidate |= 3 << (bits - 2) | 1  # odd, and large enough that the product has exactly 2 × bits
        if math.gcd(candidate - 1, PUBLIC_EXPONENT) == 1 and is_prime(candidate):
            yield candidate


def is_prime(n: int) -> bool:
    """Miller-Rabin with the first 40 primes as bases: reproducible, and enough for numbers nobody chose to fool it."""
    if n < 2 or n % 2 == 0:
        return n == 2
    for prime in _SMALL_PRIMES:
        if n % prime == 0:
            return n == prime
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, *_SMALL_PRIMES[:39]):
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element: tag, length, value."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))  # a leading zero bit: not negative


def _sequence(*elements: bytes) -> bytes:
    return _tlv(0x30, b"".join(elements))


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
