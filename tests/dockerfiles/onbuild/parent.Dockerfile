FROM alpine:3.23
ENV PARENT=yes
WORKDIR /app
ONBUILD ARG STEP=default
ONBUILD COPY package.txt ./
ONBUILD RUN echo "$PARENT $STEP" > step
ONBUILD USER nobody
