#!/bin/sh
# Makes the bucket of docker-compose.yml's archive, unless it is there. To make it again is an error, and other
# errors are not always told by weed's status, so what counts is that the bucket is listed afterwards.
set -eu

bucket=$1
shell="weed shell -master=$2"
echo "s3.bucket.create -name $bucket" | $shell || true
echo "s3.bucket.list" | $shell | grep -q "^ *${bucket}[[:space:]]"
echo "$bucket: a bucket"
