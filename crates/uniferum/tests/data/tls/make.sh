#!/bin/sh
# Makes the certificates of the test `tls`, which are worth nothing elsewhere: one that the command is told
# to believe, and one that it is not. They hold for 100 years.
set -e
cd "$(dirname "$0")"
for name in server stranger; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
    -subj "/CN=$name" -addext subjectAltName=IP:127.0.0.1 \
    -addext basicConstraints=critical,CA:FALSE -keyout $name.key.pem -out $name.pem
done
rm stranger.key.pem
