gcloud run services add-iam-policy-binding $service --region=$region \
    --member=$member --role=$role
